"""Result folders of containers, read as a whole."""


def read_files(folder):
    """Name → content of every file of a folder."""
    return {path.name: path.read_bytes() for path in folder.iterdir()}
