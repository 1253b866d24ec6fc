"""Options of the readers, and the limits of what they accept."""

import math
from dataclasses import dataclass
from typing import Literal

from mediar_infer.config import make_plain
from mediar_infer.errors import ImageReadError, UsageError
from mediar_infer.images.channels import check_choice
from mediar_infer.process import available_memory_bytes

MAX_PIXELS = 2**34
"""Default limit of height × width for images read by rows: 131,072 × 131,072."""
MAX_DECODED_PIXELS = 10**9
"""Default limit of pixels decoded at once: files that are not read by rows, one TIFF strip."""
MAX_DECODED_BYTES = 2**30
"""Default limit of memory to decode them in."""


@dataclass(frozen=True, slots=True)
class ReadOptions:
    """How images are read; the same for every format."""

    plane: int | None = None
    """Plane to read from z- and t-stacks, from 0; ``None`` makes a stack an error."""
    project: Literal["max"] | None = None
    """Project the planes of a z-stack: ``max`` is their maximum at each pixel; ``plane`` then
    chooses among what is left, such as time points."""
    scene: int | Literal["all"] | None = None
    """Scene to read from files that hold several images (CZI, LIF, ND2, OME-TIFF), from 0, or
    ``all`` for each as an image of its own; ``None`` makes such a file an error, or reads the
    largest image of a TIFF."""
    max_pixels: int | None = None
    """Refuse images of more pixels before they are decoded; ``None`` is a limit per format."""
    held_pixels: int | None = None
    """Refuse images of more pixels, besides all other limits: another image is held in memory."""
    channels: tuple[str | int, ...] = ()
    """One to three channels to segment: names from the metadata or numbers from 0, ``-`` for a
    channel of zeros, ``A+B`` for the maximum of channels that are first normalised by themselves;
    what is not chosen plays no part in the normalisation."""
    apply_orientation: bool = False
    """Rotate photographs according to their EXIF orientation; otherwise labels lie on the rows as
    stored, where other programs expect them."""
    pixel_size_um: tuple[float, float] | None = None
    """Size of a pixel in µm, in place of what the file states: one number, or height,width."""
    all_channels: bool = False
    """Keep every channel, for ``ImageSource.read_channels``."""

    def __post_init__(self) -> None:
        make_plain(self)
        if self.plane is not None and self.plane < 0:
            raise UsageError(f"found --plane {self.plane}, expected 0 or more")
        if self.project not in (None, "max"):
            raise UsageError(f"found --project {self.project}, expected max")
        if self.scene not in (None, "all") and (not isinstance(self.scene, int) or self.scene < 0):
            raise UsageError(f"found --scene {self.scene}, expected 0 or more, or all")
        if self.max_pixels is not None and self.max_pixels < 1:
            raise UsageError(f"found --max-pixels {self.max_pixels}, expected 1 or more")
        check_choice(self.channels)
        check_pixel_size(self.pixel_size_um)

    def check_size(self, name: str, height: int, width: int) -> None:
        """Refuse an image that is too large to be read by rows.

        Raises:
            ImageReadError: if it has more than ``max_pixels`` or ``MAX_PIXELS`` pixels.
        """
        _check_pixels(name, height, width, self._limit(MAX_PIXELS))

    def check_decoded(
        self, name: str, height: int, width: int, n_bytes: int, *, where: str = ""
    ) -> None:
        """Refuse what is too large to be decoded at once, before it is.

        Args:
            name: file name, for messages.
            height: rows.
            width: columns.
            n_bytes: memory that the decoder and its result take.
            where: the part of the image that it is, such as ``"in one strip"``.

        Raises:
            ImageReadError: if it has more pixels than ``max_pixels``; without that, than
                ``MAX_DECODED_PIXELS``, or takes more than ``MAX_DECODED_BYTES``; if it takes more
                memory than this process may still use.
        """
        where = where and f" {where}"
        _check_pixels(name, height, width, self._limit(MAX_DECODED_PIXELS), where)
        found = f"{name}: found {height:,} × {width:,} pixels{where}"
        if self.max_pixels is None and n_bytes > MAX_DECODED_BYTES:
            raise ImageReadError(
                f"{found} that take {n_bytes / 2**20:,.0f} MiB to decode at once, expected at most"
                f" {MAX_DECODED_BYTES // 2**20:,} MiB; save it as tiled TIFF, which is read in"
                f" parts, or pass --max-pixels {height * width} if the file is genuine and fits"
            )
        _check_memory(found, n_bytes)

    def _limit(self, default: int) -> int:
        limit = default if self.max_pixels is None else self.max_pixels
        return limit if self.held_pixels is None else min(limit, self.held_pixels)


def check_pixel_size(pixel_size_um: tuple[float, float] | None) -> None:
    """Refuse a size of a pixel that is none.

    Args:
        pixel_size_um: height and width in µm; None if not chosen.

    Raises:
        UsageError: if one is not a positive, finite number.
    """
    if pixel_size_um is not None and not all(0 < um < math.inf for um in pixel_size_um):
        listed = ",".join(f"{um:g}" for um in pixel_size_um)
        raise UsageError(f"found --pixel-size {listed}, expected µm above 0")


def _check_memory(found: str, n_bytes: int) -> None:
    available_bytes = available_memory_bytes()
    if available_bytes is not None and n_bytes > available_bytes:
        raise ImageReadError(
            f"{found} that take {n_bytes / 2**20:,.0f} MiB to decode at once, expected at most"
            f" {available_bytes / 2**20:,.0f} MiB, the memory that is left to this process; save it"
            " as tiled TIFF, which is read in parts, or give the process more memory"
        )


def _check_pixels(name: str, height: int, width: int, max_pixels: int, where: str = "") -> None:
    n_pixels = height * width
    if n_pixels > max_pixels:
        raise ImageReadError(
            f"{name}: found {height:,} × {width:,}{where} = {n_pixels:,} pixels, expected at most "
            f"{max_pixels:,}; raise --max-pixels if the file is genuine"
        )
