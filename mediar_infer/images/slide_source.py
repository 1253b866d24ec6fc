"""Slides that OpenSlide reads: MIRAX, DICOM, Hamamatsu VMS, and overlapping tiles of Ventana."""

from pathlib import Path
from typing import Any, Final

import numpy as np

from mediar_infer.arrays import AnyArray
from mediar_infer.errors import ImageReadError
from mediar_infer.images.faults import DamagedFile, reading
from mediar_infer.images.limits import ReadOptions
from mediar_infer.images.stack_source import StackLayout, StackSource

_REGION_BYTES: Final = 64 * 2**20
"""Decoded at once; OpenSlide keeps tiles of its own for the next region."""
_BYTES_PER_PIXEL: Final = 4


class SlideSource(StackSource):
    """The full-resolution image of a slide, in colours; what was not scanned is white."""

    def __init__(self, path: Path, options: ReadOptions, notes: tuple[str, ...] = ()) -> None:
        """Open a slide.

        Args:
            path: the file that stands for the slide; others lie beside it.
            options: channels and limits.
            notes: sentences to start the warnings with.

        Raises:
            ImageReadError: if the slide is damaged, incomplete, too large or of another kind.
        """
        import openslide

        with reading(path.name, "slide"):
            if openslide.OpenSlide.detect_format(path) is None:
                raise ImageReadError(
                    f"{path.name}: found no slide that OpenSlide {openslide.__library_version__}"
                    " reads, expected one with all its files beside it; copy them too, or save the"
                    " image as TIFF"
                )
            self._slide: Any = openslide.OpenSlide(path)
        try:
            with reading(path.name, "slide"):
                width, height = self._slide.dimensions
                properties = self._slide.properties
                self._background = _to_colour(
                    properties.get(openslide.PROPERTY_NAME_BACKGROUND_COLOR)
                )
                layout = StackLayout(
                    height=height,
                    width=width,
                    dtype=np.dtype(np.uint8),
                    axes=(),
                    n_samples=(3,),
                    channel_names=("",),
                    pixel_size_um=_to_size(
                        properties.get(openslide.PROPERTY_NAME_MPP_Y),
                        properties.get(openslide.PROPERTY_NAME_MPP_X),
                    ),
                )
            super().__init__(path.name, layout, options, notes)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Close the slide."""
        self._slide.close()

    def _read_channel(self, plane: int, channel: int, top: int, bottom: int) -> AnyArray:
        rows = np.empty((bottom - top, self.width, 3), np.uint8)
        n_columns = max(1, _REGION_BYTES // (_BYTES_PER_PIXEL * max(bottom - top, 1)))
        for left in range(0, self.width if bottom > top else 0, n_columns):
            right = min(left + n_columns, self.width)
            region = self._slide.read_region((left, top), 0, (right - left, bottom - top))
            pixels = np.asarray(region)
            if pixels.shape != (bottom - top, right - left, _BYTES_PER_PIXEL):
                raise DamagedFile(f"a region of {pixels.shape}")
            is_scanned = pixels[:, :, 3:] > 0
            rows[:, left:right] = np.where(is_scanned, pixels[:, :, :3], self._background)
        return rows


def _to_colour(text: str | None) -> AnyArray:
    """The colour that a slide states for what was not scanned, or white."""
    try:
        return np.frombuffer(bytes.fromhex(text or "ffffff"), np.uint8, 3)
    except ValueError:
        return np.full(3, 255, np.uint8)


def _to_size(height: str | None, width: str | None) -> tuple[float, float] | None:
    try:
        return float(height or ""), float(width or "")
    except ValueError:
        return None
