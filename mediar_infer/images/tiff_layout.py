"""Which pages and samples of a TIFF make up the image: axes from metadata, never guessed."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import tifffile

from mediar_infer.errors import ImageReadError
from mediar_infer.images.channels import KEPT_OPACITY
from mediar_infer.images.leica_scn import find_macro_pages
from mediar_infer.images.limits import ReadOptions
from mediar_infer.images.palettes import COLOURS_NOTE, is_grey, is_ramp
from mediar_infer.images.planes import choose_planes, choose_scene
from mediar_infer.images.sources import check_samples
from mediar_infer.images.tiff_directories import tiff_file
from mediar_infer.images.ventana_bif import check_tiles

_SLIDE_KINDS = frozenset({"svs", "ndpi", "bif", "philips", "avs", "qpi"})
"""Slide formats: every further series is a label, a macro image or a thumbnail."""
_SCN = "scn"
"""A slide format of any number of scanned regions."""
_ACCOMPANYING = frozenset(
    f"{kind}{suffix}" for kind in ("label", "macro", "thumbnail") for suffix in ("", " image")
)
"""Names that converters of slides give such pictures in OME-TIFF."""
_DISPLAY_TABLE_WRITERS = frozenset(
    {
        "andor", "fei", "fluoview", "imagej", "lsm", "mdgel", "mediacy", "metaseries",
        "micromanager", "mmstack", "nih", "ome", "scanimage", "sem", "sis", "stk", "streak",
        "tvips",
    }
)  # fmt: skip
"""Programs, by their flags in tifffile, whose palettes are for the display of intensities."""
_INDEX_TYPES = (np.dtype(np.uint8), np.dtype(bool))
"""Types of up to 8 bits and of 1 bit, whose numbers choose colours."""
_ALPHA = (1, 2)
"""Values of the ExtraSamples tag that mean opacity."""
JPEG_COMPRESSIONS = frozenset({6, 7, 34892, 33007})
"""Compressions whose segments need the JPEG tables of the page; their YCbCr becomes RGB."""
_RGB_DECODERS = JPEG_COMPRESSIONS | {33004, 33005, 50001, 50002, 52546}
"""Compressions that return RGB for a YCbCr page."""
_APERIO_YCBCR = 33003
"""Aperio's JPEG 2000 whose components are YCbCr, whatever the photometric tag says."""


class Colour(Enum):
    """How stored samples become intensities."""

    AS_STORED = "as stored"
    PALETTE = "palette"
    CMYK = "cmyk"
    YCBCR = "ycbcr"


@dataclass(frozen=True, slots=True)
class TiffLayout:
    """Where the channels of one 2-D image lie in a TIFF series."""

    height: int
    """Rows."""
    width: int
    """Columns."""
    n_samples: int
    """Interleaved samples per pixel in one plane."""
    channels: tuple[tuple[int, int], ...]
    """(plane, sample) of each channel without opacity; planes count through the whole series."""
    opacity: tuple[tuple[int, int], ...]
    """(plane, sample) of each channel that is marked as opacity."""
    projected: Mapping[int, tuple[int, ...]]
    """Plane of a channel → planes whose maximum is read; itself alone without a projection."""
    colour: Colour
    """How samples become intensities."""
    warnings: tuple[str, ...]
    """What was decided, for the user."""


@dataclass(frozen=True, slots=True)
class _Axis:
    letter: str
    size: int


def list_tiff_scenes(path: Path) -> list[str]:
    """Name the images of a file, empty where it states no names.

    Raises:
        ImageReadError: if the file is damaged.
    """
    with tiff_file(path, "TIFF structure") as tif:
        return [_title(series) for series in _find_scenes(tif, path.name)]


def choose_series(tif: tifffile.TiffFile, options: ReadOptions, name: str) -> tuple[Any, list[str]]:
    """The series with the image, at full resolution: the largest one, unless a scene is named.

    Args:
        tif: open file.
        options: ``scene``.
        name: file name, for messages.

    Returns:
        A ``tifffile.TiffPageSeries`` and sentences about further images that are not read.

    Raises:
        ImageReadError: if the file holds no image, lacks the one that is asked for, or contradicts
            its own metadata.
    """
    scenes = _find_scenes(tif, name)
    notes = []
    if options.scene is None:
        series = max(scenes, key=_n_pixels)  # the first of equals
        others = [scene for scene in scenes if scene is not series]
        if others:
            sizes = ", ".join(" × ".join(map(str, s.shape)) for s in others[:3])
            notes.append(
                f"{len(others)} further image(s) in the file are not read ({sizes}); choose one"
                " with --scene N, or all with --scene all"
            )
    else:
        number, notes = choose_scene(name, [_title(scene) for scene in scenes], options)
        series = scenes[number]
    check_tiles(name, series.keyframe)
    n_images = int((tif.imagej_metadata or {}).get("images", 1)) if tif.is_imagej else 1
    if n_images > 1 and series.kind in ("uniform", "generic"):
        # tifffile then falls back to the first page: half a stack would look like an image
        raise ImageReadError(
            f"{name}: found fewer bytes than the {n_images} images of its ImageJ metadata need, "
            "expected a complete stack; copy or export it again"
        )
    if tif.is_ome and series.kind in ("uniform", "generic"):
        notes.append("the OME metadata is damaged or spans several files: it is not used")
    return series, notes


def _find_scenes(tif: tifffile.TiffFile, name: str) -> list[Any]:
    """The images of a file, without smaller copies and what only accompanies a slide."""
    found = [series for series in tif.series if _n_pixels(series) > 0]
    if not found:
        raise ImageReadError(
            f"{name}: found a TIFF without an image, expected one; export it again"
        )
    largest = max(found, key=_n_pixels)
    if largest.kind in _SLIDE_KINDS:
        return [largest]
    if largest.kind == _SCN:
        macro_pages = find_macro_pages(tif)
        return [each for each in found if each.keyframe.index not in macro_pages] or [largest]
    return [
        series
        for series in found
        if series is largest
        or not (series.keyframe.is_reduced or _title(series).casefold() in _ACCOMPANYING)
    ]


def _title(series: Any) -> str:  # noqa: ANN401
    return " ".join((series.name or "").split())


def _n_pixels(series: Any) -> int:  # noqa: ANN401  (tifffile is untyped here)
    sizes = dict(zip(series.get_axes(False).upper(), series.get_shape(False), strict=True))
    return int(sizes.get("Y", 0)) * int(sizes.get("X", 0))


def resolve_layout(series: Any, options: ReadOptions, *, name: str) -> TiffLayout:  # noqa: ANN401
    """Find the channels of the image that is asked for.

    Args:
        series: a ``tifffile.TiffPageSeries``.
        options: planes along the axes that are neither Y, X nor channels.
        name: file name, for messages.

    Returns:
        The layout.

    Raises:
        ImageReadError: if the axes do not say which 2-D image is meant, or the data type or the
            colour space is not supported.
    """
    page = series.keyframe
    check_samples(name, page.dtype, f"{page.bitspersample} bits, sample format {page.sampleformat}")
    sizes = zip(series.get_axes(False).upper(), series.get_shape(False), strict=True)
    axes = [_Axis(letter, int(n)) for letter, n in sizes if n != 1 or letter in "YX"]
    warnings: list[str] = []
    if _is_unlabelled_rgb(axes):
        warnings.append(
            f"axes are not named in the metadata; shape {_shape(axes)} is read as "
            "height × width × colours"
        )
        axes = [_Axis("Y", axes[0].size), _Axis("X", axes[1].size), _Axis("S", axes[2].size)]
    lead, tail = _split_axes(axes, name)
    n_samples = prod(axis.size for axis in tail)
    projected = _choose_planes(axes, lead, options, name=name, warnings=warnings)
    stored = [(plane, sample) for plane in projected for sample in range(n_samples)]
    channels, opacity = _split_opacity(page, lead, stored, n_samples)
    if not channels:
        channels, opacity = stored, []
        warnings.append(KEPT_OPACITY)
    colour = _colour(page, len(channels), name, warnings)
    height, width = (next(a.size for a in axes if a.letter == letter) for letter in "YX")
    return TiffLayout(
        height, width, n_samples, tuple(channels), tuple(opacity), projected, colour,
        tuple(warnings),
    )  # fmt: skip


def _split_opacity(
    page: Any,  # noqa: ANN401
    lead: list[_Axis],
    stored: list[tuple[int, int]],
    n_samples: int,
) -> tuple[list[tuple[int, int]], list[tuple[int, int]]]:
    """Channels with and without a mark of opacity; opacity comes last, in pixels or planes."""
    n_alpha = sum(extra in _ALPHA for extra in page.extrasamples)
    if n_samples > 1:
        first = n_samples - n_alpha
        opacity = [channel for channel in stored if channel[1] >= first]
    elif any(axis.letter == "S" for axis in lead):
        opacity = stored[max(0, len(stored) - n_alpha) :]
    else:
        opacity = []
    return [channel for channel in stored if channel not in opacity], opacity


def _shape(axes: list[_Axis]) -> str:
    return " × ".join(str(axis.size) for axis in axes)


def _letters(axes: list[_Axis]) -> str:
    return "".join(axis.letter for axis in axes)


def _is_unlabelled_rgb(axes: list[_Axis]) -> bool:
    """An ``(H, W, 3)`` array that was saved without saying so: pages of ``W × 3`` pixels."""
    if _letters(axes) not in ("QYX", "IYX"):
        return False
    return axes[2].size in (3, 4) and min(axes[0].size, axes[1].size) > 4


def _split_axes(axes: list[_Axis], name: str) -> tuple[list[_Axis], list[_Axis]]:
    """Axes before Y, and the interleaved channel axis after X (none or one)."""
    letters = _letters(axes)
    start = letters.find("YX")
    tail = letters[start + 2 :]
    if start < 0 or letters.count("Y") > 1 or letters.count("X") > 1 or tail not in ("", "S", "C"):
        raise ImageReadError(
            f"{name}: found axes {letters} (shape {_shape(axes)}), expected rows Y followed by "
            "columns X, channels C or S before or after; save the image again with named axes"
        )
    return axes[:start], axes[start + 2 :]


def _choose_planes(
    axes: list[_Axis],
    lead: list[_Axis],
    options: ReadOptions,
    *,
    name: str,
    warnings: list[str],
) -> dict[int, tuple[int, ...]]:
    """Plane of each separately stored channel of the 2-D image → planes to be projected to it."""
    index = np.arange(prod(axis.size for axis in lead)).reshape([axis.size for axis in lead])
    stack = [k for k, axis in enumerate(lead) if axis.letter not in "CS"]
    channel = [k for k, axis in enumerate(lead) if axis.letter in "CS"]
    n_planes = prod(lead[k].size for k in stack)
    index = index.transpose(stack + channel).reshape(n_planes, -1)
    unnamed = sorted({lead[k].letter for k in stack if lead[k].letter in "QI"})
    meaning = f"; the metadata does not say what axis {unnamed[0]} is" if unnamed else ""
    chosen, notes = choose_planes(
        name,
        [(lead[k].letter, lead[k].size) for k in stack],
        options,
        shown=f"axes {_letters(axes)}, shape {_shape(axes)}{meaning}",
        advice=" or save the file again with named axes (C for channels)" if unnamed else "",
    )
    warnings += notes
    return {int(planes[0]): tuple(map(int, planes)) for planes in index[chosen].T}


def _colour(page: Any, n_channels: int, name: str, warnings: list[str]) -> Colour:  # noqa: ANN401
    """Colour rule by photometric tag; a missing tag counts as grey or RGB."""
    photometric = int(page.photometric) if 262 in page.tags else 1
    if page.compression == _APERIO_YCBCR and n_channels == 3:
        return Colour.YCBCR
    if photometric == 0:
        # inverting would be wrong more often: masks and inverted look-up tables are stored so
        warnings.append("photometric is MinIsWhite: stored values are kept, not inverted")
    if photometric in (0, 1, 2, 4, 34892):
        return Colour.AS_STORED
    if photometric == 3 and page.colormap is not None:
        return _palette_rule(page, n_channels, warnings)
    if photometric == 6 and n_channels == 3:
        if page.compression in _RGB_DECODERS:
            return Colour.AS_STORED
        if page.compression != 34712 and page.dtype == np.uint8:
            return Colour.YCBCR
    # JPEG may hold inverted inks
    is_plain = page.compression not in JPEG_COMPRESSIONS and page.dtype in (np.uint8, np.uint16)
    if photometric == 5 and n_channels == 4 and is_plain:
        warnings.append("CMYK is converted to RGB without a colour profile")
        return Colour.CMYK
    raise ImageReadError(
        f"{name}: found photometric {page.photometric!s} with {n_channels} channels of "
        f"{page.dtype}, expected grey, RGB, palette, CMYK or YCbCr; convert the image to RGB"
    )


def _palette_rule(page: Any, n_channels: int, warnings: list[str]) -> Colour:  # noqa: ANN401
    """Whether a palette is for display, so that stored numbers are intensities, or is the image."""
    if n_channels > 1:
        warnings.append("the palette is ignored: the image has several channels")
        return Colour.AS_STORED
    palette = np.asarray(page.colormap).T
    writers = _DISPLAY_TABLE_WRITERS & set(page.parent.flags)
    is_display = bool(writers) or page.dtype not in _INDEX_TYPES or is_ramp(palette)
    if is_display and not (is_ramp(palette) and is_grey(palette)):
        warnings.append("the palette is for display: stored numbers are read as intensities")
    if is_display:
        return Colour.AS_STORED
    if not is_grey(palette):
        warnings.append(COLOURS_NOTE)
    return Colour.PALETTE
