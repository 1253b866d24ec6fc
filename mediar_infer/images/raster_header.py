"""What the formats that are decoded whole have in common: the record of a header."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

ZEROS_NOTE = (
    "a block of the {} data is zero, as a failed copy leaves it: parts may be wrong, compare the"
    " picture"
)
"""Warning about compressed data that a decoder takes for valid code."""

PICTURES_NOTE = (
    "the file holds {} pictures, of which only the first is read: save each as a file of its own"
)
"""Warning about animations and photographs with several views."""


@dataclass(frozen=True, slots=True)
class RasterHeader:
    """What a file says of itself before it is decoded."""

    height: int
    """Rows as stored, before an orientation is applied."""
    width: int
    """Columns as stored."""
    n_channels: int
    """Channels after decoding, opacity included; 0 where the header does not say."""
    decoder_bytes: int
    """Memory that the decoder, its result and the file take; an estimate."""
    has_alpha: bool = False
    """The last decoded channel is marked as opacity."""
    is_transparent: bool = False
    """The decoder adds a channel of opacity that the file does not store."""
    orientation: int = 1
    """EXIF orientation, 1 … 8; 1 is upright."""
    palette: npt.NDArray[np.integer[Any]] | None = None
    """Colour table ``(n, 3)`` that the pixels are numbers of."""
    warnings: tuple[str, ...] = ()
    """What a user may want to know."""
