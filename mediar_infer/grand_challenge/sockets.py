"""Input sockets of a job, as listed in ``inputs.json``, and their files."""

import json
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Final

from mediar_infer.errors import SocketError
from mediar_infer.grand_challenge.interfaces import relative_path

INPUTS_NAME: Final = "inputs.json"
IMAGE_SUFFIXES: Final = (".mha", ".tif", ".tiff")
"""File formats in which the platform stores images."""
_SOCKET_KEYS = ("socket", "interface", "component_interface")
"""Names for the description of a socket in different versions of the platform."""
_LISTED = 4


@dataclass(frozen=True, slots=True)
class Socket:
    """One input of a job."""

    slug: str
    """Its name on the platform."""
    path: PurePosixPath | None
    """Location of its files relative to the input folder; ``None`` if not stated."""
    is_image: bool
    """Whether it holds an image, and not a value or another file."""


def read_sockets(input_dir: Path) -> list[Socket]:
    """Read the input sockets of a job.

    Args:
        input_dir: folder that the platform fills.

    Raises:
        SocketError: if ``inputs.json`` does not exist or does not list sockets.
    """
    path = input_dir / INPUTS_NAME
    expected = 'expected the list of socket values of the platform, [{"socket": {"slug": …}, …}, …]'
    try:
        entries = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise SocketError(
            f"{path}: there is no such file, {expected}; mount the job's inputs there or name"
            " another folder with --input"
        ) from None
    except OSError as error:
        raise SocketError(f"{path}: cannot be read ({error.strerror}), {expected}") from error
    except (ValueError, RecursionError) as error:  # not UTF-8, not JSON, or endlessly nested
        raise SocketError(f"{path}: found no JSON ({error}), {expected}") from error
    if not isinstance(entries, list):
        raise SocketError(f"{path}: found JSON of type {type(entries).__name__}, {expected}")
    sockets = [_to_socket(path, number, entry) for number, entry in enumerate(entries)]
    slugs = [socket.slug for socket in sockets]
    if twice := sorted({slug for slug in slugs if slugs.count(slug) > 1}):
        raise SocketError(f"{path}: found {', '.join(twice)} twice, expected each socket once")
    return sockets


def _to_socket(path: Path, number: int, entry: Any) -> Socket:  # noqa: ANN401 (of JSON)
    where = f"{path}, entry {number}"
    fields = entry if isinstance(entry, dict) else {}
    described = next((fields[key] for key in _SOCKET_KEYS if key in fields), None)
    if not isinstance(described, dict) or not isinstance(described.get("slug"), str):
        keys = ", ".join(map(str, fields)) or type(entry).__name__
        raise SocketError(f'{where}: found {keys}, expected {{"socket": {{"slug": …}}, …}}')
    folder = described.get("relative_path")
    # Kinds of images have many names, such as "Segmentation"; the super kind has one.
    kind = described.get("super_kind") or described.get("kind")
    return Socket(
        slug=described["slug"],
        path=relative_path(folder, SocketError, where) if isinstance(folder, str) else None,
        is_image=str(kind).lower() == "image" or isinstance(fields.get("image"), dict),
    )


def find_image(input_dir: Path, socket: Socket) -> Path:
    """Find the one image of a socket.

    Raises:
        SocketError: if the socket is of another kind or its folder does not hold exactly one image.
    """
    if not socket.is_image or socket.path is None:
        found = "no image" if socket.path is not None else "no relative_path"
        raise SocketError(
            f"{input_dir / INPUTS_NAME}: found {found} in the socket {socket.slug}, expected an"
            " image socket with its path"
        )
    folder = input_dir / socket.path
    expected = f"expected one image ({', '.join(IMAGE_SUFFIXES)}) of the socket {socket.slug}"
    try:
        names = sorted(path.name for path in folder.iterdir())
    except (OSError, ValueError) as error:  # ValueError: a path that no file system can hold
        reason = getattr(error, "strerror", None) or error
        raise SocketError(f"{folder}: cannot be listed ({reason}), {expected}") from error
    images = [
        name
        for name in names
        if Path(name).suffix.lower() in IMAGE_SUFFIXES and not name.startswith(".")
    ]
    if len(images) == 1:
        return folder / images[0]
    listed = images or names
    more = f", … ({len(listed)} files)" if len(listed) > _LISTED else ""
    what = f"{len(images)} images" if images else "no image"
    raise SocketError(
        f"{folder}: found {what} ({', '.join(listed[:_LISTED]) or 'empty folder'}{more}),"
        f" {expected}"
    )
