"""Interfaces of an algorithm: sets of input sockets, and where the result of each goes."""

import os
import tomllib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any, Final

from mediar_infer.errors import MediarError, SocketError, UsageError

SHIPPED_TABLE: Final = Path(__file__).with_name("sockets.toml")
TABLE_NAME: Final = "sockets.toml"
"""Name under which a table is found in the model folder."""
_KEYS = frozenset({"image", "also", "result"})


@dataclass(frozen=True, slots=True)
class Interface:
    """One set of input sockets, and the socket of the result."""

    image: str
    """Slug of the socket with the image."""
    result: PurePosixPath
    """Folder of the result, relative to the output folder."""
    also: tuple[str, ...] = ()
    """Slugs of further input sockets, which are not read."""

    @property
    def key(self) -> tuple[str, ...]:
        """All slugs, sorted, by which the platform distinguishes interfaces."""
        return tuple(sorted((self.image, *self.also)))


def relative_path(text: str, error: type[MediarError], where: str) -> PurePosixPath:
    """Check a path that must stay inside the folder that it is appended to.

    Args:
        text: the path; an empty one is that folder itself, as the platform gives it for
            ``generic-medical-image``.
        error: class of the error to raise.
        where: origin of the path, for the message.

    Raises:
        MediarError: of the given class, if the path is absolute or leads out of the folder.
    """
    path = PurePosixPath(text)
    if path.is_absolute() or ".." in path.parts:
        raise error(f"{where}: found the path {text!r}, expected a relative one without '..'")
    return path


def result_path(text: str, where: str) -> PurePosixPath:
    """Path of a result: the given path, or that of an image socket with the given slug.

    Raises:
        UsageError: if the path leads out of the output folder.
    """
    return relative_path(text if "/" in text else f"images/{text}", UsageError, where)


def choose_table(given: Path | None, model_dir: Path) -> Path:
    """The table to use: the given one, else that of the model folder, else the shipped one.

    A model folder that cannot be entered has none.
    """
    if given is not None:
        return given
    found = model_dir / TABLE_NAME
    return found if os.path.isfile(found) else SHIPPED_TABLE  # noqa: PTH113 (no error)


def read_interfaces(path: Path) -> list[Interface]:
    """Read a table of interfaces.

    Args:
        path: TOML file with tables ``[[interface]]``: ``image``, ``result``, optionally ``also``.

    Raises:
        UsageError: if the file cannot be read or has another form.
    """
    form = (
        'expected tables [[interface]] with image = "SLUG", result = "SLUG or path" and, for'
        ' further input sockets, also = ["SLUG"]'
    )
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"{path}: cannot be read ({error.strerror}), {form}") from error
    except (ValueError, RecursionError) as error:  # not UTF-8, not TOML, or endlessly nested
        raise UsageError(f"{path}: found no TOML ({error}), {form}") from error
    tables = content.get("interface")
    if content.keys() != {"interface"} or not isinstance(tables, list) or not tables:
        raise UsageError(f"{path}: found {', '.join(content) or 'nothing'}, {form}")
    interfaces = [_to_interface(path, table, form) for table in tables]
    if len({interface.key for interface in interfaces}) < len(interfaces):
        raise UsageError(f"{path}: found two interfaces with the same sockets, expected one")
    return interfaces


def _to_interface(path: Path, table: Any, form: str) -> Interface:  # noqa: ANN401 (of TOML)
    fields = table if isinstance(table, dict) else {}
    also = fields.get("also", [])
    texts = [fields.get("image"), fields.get("result"), *(also if isinstance(also, list) else [0])]
    if fields.keys() - _KEYS or not all(isinstance(text, str) and text for text in texts):
        raise UsageError(f"{path}: found the interface {table!r}, {form}")
    return Interface(fields["image"], result_path(fields["result"], str(path)), tuple(also))


def find_interface(
    slugs: Sequence[str],
    interfaces: Sequence[Interface],
    *,
    image_slug: str | None = None,
    result: PurePosixPath | None = None,
) -> Interface:
    """Find the interface of a job.

    Args:
        slugs: slugs of the job's input sockets.
        interfaces: known interfaces.
        image_slug: socket to read the image from, whatever the other sockets.
        result: folder of the result in place of that of the interface.

    Raises:
        SocketError: if no known interface has these sockets, or the given one is missing.
    """
    key = tuple(sorted(slugs))
    known = next((interface for interface in interfaces if interface.key == key), None)
    if image_slug is not None:
        if image_slug not in slugs:
            raise SocketError(
                f"found {_list(key)}, expected the socket {image_slug} of --image-socket or"
                " $MEDIAR_IMAGE_SOCKET"
            )
        alike = (each for each in interfaces if each.image == image_slug)
        default = known or next(alike, interfaces[0])
        others = tuple(slug for slug in key if slug != image_slug)
        known = Interface(image_slug, default.result, others)
    if known is None:
        keys = "; or ".join(", ".join(each.key) for each in interfaces)
        raise SocketError(
            f"found {_list(key)}, expected those of a known interface: {keys}; name the socket with"
            f" the image by --image-socket, or list the interface in a {TABLE_NAME} in the model"
            " folder"
        )
    return replace(known, result=result or known.result)


def _list(slugs: Iterable[str]) -> str:
    names = ", ".join(slugs)
    return f"the input sockets {names}" if names else "no input socket"
