"""File formats: their names, the extensions of their files, and their first bytes."""

import stat
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Final

from mediar_infer.errors import ImageReadError

_OME_ZARR: Final = "OME-Zarr"

IMAGE_FORMATS: Final[Mapping[str, tuple[str, ...]]] = {
    "TIFF": (
        ".tif", ".tiff", ".btf", ".tf2", ".tf8", ".lsm", ".stk", ".flex",
        ".svs", ".ndpi", ".scn", ".bif", ".qptiff",
    ),
    "PNG": (".png",),
    "JPEG": (".jpg", ".jpeg", ".jpe", ".jfif"),
    "BMP": (".bmp", ".dib"),
    "JPEG 2000": (".jp2", ".j2k", ".jpf", ".jpx", ".j2c", ".jpc"),
    "MHA": (".mha",),
    "CZI": (".czi",),
    "LIF": (".lif", ".lof"),
    "ND2": (".nd2",),
    _OME_ZARR: (".zarr",),
    "MIRAX slide": (".mrxs",),
    "VMS slide": (".vms",),
    "DICOM": (".dcm",),
}  # fmt: skip
"""Format → extensions, in lower case, by which files of a folder count as images of it."""

_PACKAGES: Final[Mapping[str, tuple[str, str]]] = {
    "LIF": ("liffile", "formats"),
    "ND2": ("nd2", "formats"),
    _OME_ZARR: ("zarr", "zarr"),
    "MIRAX slide": ("openslide", "slides"),
    "VMS slide": ("openslide", "slides"),
    "DICOM": ("openslide", "slides"),
}
"""Format → package that reads it, and the extra that installs it."""

BIO_FORMATS: Final = "export it as OME-TIFF, for example with Fiji (Plugins > Bio-Formats)"
"""Remedy for slides and files of microscopes that are not read."""
_AS_TIFF: Final = "save it as TIFF or PNG"
_AS_SLICES: Final = "save the slices to be segmented as TIFF"


@dataclass(frozen=True, slots=True)
class UnreadFormat:
    """A format of images that is known but not read: its files are errors, not other files."""

    extensions: tuple[str, ...]
    """As in ``IMAGE_FORMATS``."""
    remedy: str
    """What to do with such a file."""


UNREAD_FORMATS: Final[Mapping[str, UnreadFormat]] = {
    "Zeiss ZVI": UnreadFormat((".zvi",), BIO_FORMATS),
    "Leica XLEF": UnreadFormat((".xlef", ".xlif"), BIO_FORMATS),
    "Olympus VSI": UnreadFormat((".vsi",), BIO_FORMATS),
    "Olympus OIB or OIF": UnreadFormat((".oib", ".oif", ".oir"), BIO_FORMATS),
    "Imaris": UnreadFormat((".ims",), BIO_FORMATS),
    "DeltaVision": UnreadFormat((".dv", ".r3d"), BIO_FORMATS),
    "ICS": UnreadFormat((".ics",), BIO_FORMATS),
    "MRC": UnreadFormat((".mrc",), _AS_SLICES),
    "Gatan DM": UnreadFormat((".dm3", ".dm4"), BIO_FORMATS),
    "NIfTI": UnreadFormat((".nii", ".nii.gz"), _AS_SLICES),
    "NRRD": UnreadFormat((".nrrd", ".nhdr"), _AS_SLICES),
    "MHD": UnreadFormat((".mhd",), "save it as MHA, with header and pixels in one file"),
    "GIF": UnreadFormat((".gif",), _AS_TIFF),
    "WebP": UnreadFormat((".webp",), _AS_TIFF),
    "HEIF or AVIF": UnreadFormat((".heic", ".heif", ".avif"), _AS_TIFF),
}
"""Formats of images that are not read."""

EXTENSIONS: Final = {
    extension: name for name, extensions in IMAGE_FORMATS.items() for extension in extensions
}
"""Expected format of every extension that counts as an image."""
_UNREAD_EXTENSIONS: Final = {
    extension: name for name, known in UNREAD_FORMATS.items() for extension in known.extensions
}
_NAMED: Final = {".vsi": "Olympus VSI", ".mrxs": "MIRAX slide", ".vms": "VMS slide"}
"""Extension → format whose files begin like those of another one: a preview, or text."""

_MAGIC: Final[dict[bytes, str]] = {
    b"II*\0": "TIFF",
    b"MM\0*": "TIFF",
    b"II+\0": "TIFF",
    b"MM\0+": "TIFF",
    b"\x89PNG\r\n\x1a\n": "PNG",
    b"\xff\xd8\xff": "JPEG",
    b"BM": "BMP",
    b"\0\0\0\x0cjP  \r\n\x87\n": "JPEG 2000",
    b"\xff\x4f\xff\x51": "JPEG 2000",
    b"ObjectType": "MHA",
    b"Comment =": "MHA",
    b"NDims": "MHA",
    b"GIF8": "GIF",
    b"RIFF": "RIFF (WebP or AVI)",
    b"%PDF": "PDF",
    b"PK\x03\x04": "ZIP",
    b"\x1f\x8b": "gzip",
    b"\x89HDF": "HDF5",
    b"ZISRAWFILE": "CZI",
    b"\xda\xce\xbe\x0a": "ND2",
    b"NRRD0": "NRRD",
    b"\xd0\xcf\x11\xe0": "OLE container (OIB, ZVI)",
}
HEAD_BYTES: Final = 256
"""How much of a file ``find_format`` wants to see."""
_DICOM: Final = b"DICM"
_DICOM_AT: Final = 128
_LIF: Final = b"\x70\0\0\0"
_LIF_MARK: Final = b"*"
_LIF_MARK_AT: Final = 8
"""Marks of formats at other places than the beginning."""


def find_format(head: bytes) -> str:
    """Name the format of a file by its first bytes.

    Args:
        head: the first ``HEAD_BYTES`` bytes, fewer if the file is shorter.

    Returns:
        The name of a format, or a description of what else was found.
    """
    for magic, name in _MAGIC.items():
        if head.startswith(magic):
            return name
    if head.startswith(_LIF) and head[_LIF_MARK_AT:].startswith(_LIF_MARK):
        return "LIF"
    if head[_DICOM_AT:].startswith(_DICOM):
        return "DICOM"
    if not head.strip(b"\0"):
        return "zero bytes"
    if all(byte in b"\t\n\r\f" or byte >= 32 for byte in head) and b"\x7f" not in head:
        return "text"
    return f"unknown content (first bytes {head[:8].hex(' ')})"


def find_extension(path: Path) -> str | None:
    """The extension by which a file counts as an image, read or not; none for any other file."""
    for suffix in (path.suffix.lower(), "".join(path.suffixes[-2:]).lower()):
        if suffix in EXTENSIONS or suffix in _UNREAD_EXTENSIONS:
            return suffix
    return None


def find_unread_format(path: Path) -> str | None:
    """Name the format that is known but not read, by a file's extension; none for all others."""
    return _UNREAD_EXTENSIONS.get(find_extension(path) or "")


def is_folder_format(path: Path) -> bool:
    """Whether a folder is an image of its own by its name."""
    return path.suffix.lower() in IMAGE_FORMATS[_OME_ZARR]


def recognise_file(path: Path) -> str:
    """Name the format of an image file: by its content, except where that is another one's.

    Args:
        path: the file.

    Returns:
        A key of ``IMAGE_FORMATS``.

    Raises:
        ImageReadError: if it is no file, cannot be opened, is empty, or of a format that is not
            read, or only by a package that is not installed.
    """
    expected = f"expected an image ({', '.join(sorted(IMAGE_FORMATS))})"
    found, extension = _find_content(path, expected), path.suffix.lower()
    if found == "JPEG 2000" and extension == ".nd2":  # as NIS-Elements once wrote it
        found = "ND2"
    found = _NAMED.get(extension, found)
    if found in IMAGE_FORMATS:
        _check_package(path.name, found)
        return found
    named = find_unread_format(path)
    name = found if named is None or found in UNREAD_FORMATS else named
    unread = UNREAD_FORMATS.get(name)
    remedy = "convert it or remove it" if unread is None else unread.remedy
    raise ImageReadError(f"{path.name}: found {name}, {expected}; {remedy}")


def _check_package(name: str, format_name: str) -> None:
    package, extra = _PACKAGES.get(format_name, ("", ""))
    if package and find_spec(package) is None:
        raise ImageReadError(
            f"{name}: found {format_name} and no package {package}, expected both; install it:"
            f" python -m pip install 'mediar-infer[{extra}]', or {BIO_FORMATS}"
        )


def _find_content(path: Path, expected: str) -> str:
    """Format of a file by its first bytes; of a folder that is an image, OME-Zarr."""
    try:
        mode = path.stat().st_mode
        if stat.S_ISDIR(mode) and is_folder_format(path):
            return _OME_ZARR
        if not stat.S_ISREG(mode):
            raise ImageReadError(f"{path.name}: found no regular file, {expected}; remove it")
        with path.open("rb") as file:
            head = file.read(HEAD_BYTES)
    except OSError as exc:
        raise ImageReadError(
            f"{path.name}: found a file that cannot be opened ({exc.strerror}), {expected}; "
            "check that it exists and may be read"
        ) from exc
    if not head:
        raise ImageReadError(
            f"{path.name}: found an empty file (0 bytes), {expected}; copy it again"
        )
    return find_format(head)
