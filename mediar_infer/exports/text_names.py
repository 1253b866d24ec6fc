"""File names as text for formats that hold nothing but text."""


def to_text(name: str) -> str:
    """A file name, whose bytes need not be UTF-8, with a mark in place of those that are not."""
    return name.encode("utf-8", "replace").decode()
