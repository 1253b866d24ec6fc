"""Sizes of a MEDIAR-Former; without torch, for weights to be read while torch is imported."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Architecture:
    """All sizes of a MEDIAR-Former that can be read from a state dict."""

    encoder_channels: tuple[int, ...]
    """Width of the four encoder stages; ``(64, 128, 320, 512)`` for mit_b1 to mit_b5."""
    depths: tuple[int, ...]
    """Transformer blocks per stage; ``(3, 6, 40, 3)`` for mit_b5."""
    decoder_channels: tuple[int, ...] = (1024, 512, 256, 128, 64)
    """Width of the five decoder blocks, from the bottleneck to full resolution."""
    pab_channels: int = 256
    """Width of the keys and queries of the position-wise attention block."""
    reductions: tuple[int, ...] = (8, 4, 2, 1)
    """Side of the squares that keys and values are pooled over, per stage."""
    mlp_ratio: int = 4
    """Hidden width of the Mix-FFN over its input width."""

    @property
    def name(self) -> str:
        """``mit_b0`` … ``mit_b5`` for the published encoders, else ``custom``."""
        for name, (channels, depths) in ENCODERS.items():
            if (channels, depths) == (self.encoder_channels, self.depths):
                return name
        return "custom"


_WIDE = (64, 128, 320, 512)
ENCODERS: dict[str, tuple[tuple[int, ...], tuple[int, ...]]] = {
    "mit_b0": ((32, 64, 160, 256), (2, 2, 2, 2)),
    "mit_b1": (_WIDE, (2, 2, 2, 2)),
    "mit_b2": (_WIDE, (3, 4, 6, 3)),
    "mit_b3": (_WIDE, (3, 4, 18, 3)),
    "mit_b4": (_WIDE, (3, 8, 27, 3)),
    "mit_b5": (_WIDE, (3, 6, 40, 3)),
}
"""Encoder name → stage widths and depths (SegFormer, table 6)."""
