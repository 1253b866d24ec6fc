"""Everything that can be set, as frozen dataclasses that check themselves.

The docstring under a field is also the help of the option that sets it.
"""

from dataclasses import dataclass, field
from typing import Literal

from mediar_infer.errors import UsageError

FlipName = Literal["identity", "horizontal", "vertical"]
BlockMode = Literal["auto", "paper", "stitched"]
Precision = Literal["auto", "float32", "float16", "bfloat16"]

ALL_FLIPS: tuple[FlipName, ...] = ("identity", "horizontal", "vertical")
LARGE_IMAGE_PIXELS = 5000 * 5000
"""Images of this many pixels or more are large: the challenge's scorer, and the released system
after it, divide them into blocks."""
LARGE_IMAGE_BLOCK = 2000
"""Side of those blocks in pixels."""


def _check(holds: bool, message: str) -> None:
    if not holds:
        raise UsageError(message)


@dataclass(frozen=True, slots=True)
class Plan:
    """What to compute for an image: the choices that trade quality for time."""

    name: str = "paper"
    """Name of the plan; ``custom`` if a choice of a named plan was changed."""
    max_members: int = 2
    """Number of models to use, in the order given."""
    flips: tuple[FlipName, ...] = ALL_FLIPS
    """Test-time augmentation passes over the image: ``identity``, ``horizontal``, ``vertical``."""
    overlap: float = 0.6
    """Overlap of neighbouring windows as a fraction of their size, 0 to 0.95."""

    def __post_init__(self) -> None:
        _check(self.max_members >= 1, f"found {self.max_members} models, expected 1 or more")
        _check(0 <= self.overlap <= 0.95, f"found overlap {self.overlap}, expected 0 to 0.95")
        _check(
            len(self.flips) > 0 and len(set(self.flips)) == len(self.flips),
            f"found flips {self.flips}, expected one or more of {ALL_FLIPS}, each once",
        )
        unknown = set(self.flips) - set(ALL_FLIPS)
        _check(not unknown, f"found flips {sorted(unknown)}, expected some of {ALL_FLIPS}")


PLANS: dict[str, Plan] = {
    "paper": Plan(),
    "single": Plan("single", max_members=1, flips=("identity",)),
    "fast": Plan("fast", max_members=1, flips=("identity",), overlap=0.25),
}
"""Rows of the paper's Table 4: full system, one model without flips, the same with less overlap."""


@dataclass(frozen=True, slots=True)
class MaskConfig:
    """How dense maps become labels; all defaults but ``fill_holes`` are the released values."""

    cellprob_threshold: float = 0.5
    """Cell probability above which a pixel belongs to a cell, 0 to 1."""
    min_size: int = 16
    """Objects and holes of fewer pixels are removed and filled."""
    flow_threshold: float | None = 0.4
    """Flow error above which a cell is removed; ``None`` keeps all cells."""
    max_fraction: float = 0.9
    """Fraction of the image above which a cell is removed."""
    fill_holes: bool = True
    """Whether to fill background that one cell alone encloses; the released system leaves dotted
    lines of it in its cells."""
    blocks: BlockMode = "auto"
    """How to label images of 25 megapixels or more: ``stitched`` cuts no cell and gives the same
    labels for any block size, ``paper`` uses separate blocks as released, ``auto`` is ``stitched``.
    """
    block_size: int = 0
    """Side of a block (``paper``) or number of rows at a time (``stitched``), in pixels; 0 is 2000
    and 64."""

    def __post_init__(self) -> None:
        _check(
            0 < self.cellprob_threshold < 1,
            f"found cell-probability threshold {self.cellprob_threshold}, expected 0 to 1",
        )
        _check(self.min_size >= 0, f"found minimum size {self.min_size}, expected 0 or more")
        _check(
            self.flow_threshold is None or self.flow_threshold >= 0,
            f"found flow threshold {self.flow_threshold}, expected 0 or more, or None (off)",
        )
        _check(
            0 < self.max_fraction <= 1,
            f"found largest fraction {self.max_fraction}, expected above 0 and up to 1",
        )
        _check(
            self.block_size == 0 or self.block_size >= 64,
            f"found block size {self.block_size}, expected 64 or more, or 0 (automatic)",
        )
        _check(
            self.blocks in ("auto", "paper", "stitched"),
            f"found blocks {self.blocks!r}, expected auto, paper or stitched",
        )


@dataclass(frozen=True, slots=True)
class RuntimeConfig:
    """Where and how the network runs; changes speed, not the result beyond rounding."""

    device: str = "auto"
    """Where to run the network: ``auto``, ``cpu``, ``cuda``, ``cuda:N`` or ``mps``."""
    precision: Precision = "auto"
    """Number format of the network; ``auto`` is float16 on CUDA and float32 elsewhere, and sums are
    always float32."""
    backend: Literal["auto", "torch", "openvino"] = "auto"
    """What runs the network; ``auto`` is OpenVINO on a CPU if the weights come with an exported
    graph, and torch otherwise."""
    batch: int = 0
    """Windows per network call; 0 lets the backend choose."""
    threads: int = 0
    """CPU threads; 0 uses every core that this process may use."""

    def __post_init__(self) -> None:
        _check(self.batch >= 0, f"found batch {self.batch}, expected 0 (automatic) or more")
        _check(self.threads >= 0, f"found {self.threads} threads, expected 0 (all) or more")


@dataclass(frozen=True, slots=True)
class EngineConfig:
    """All settings of one run."""

    plan: Plan = field(default_factory=Plan)
    """What to compute: ``paper`` is the full system, ``single`` one model without flips, ``fast``
    the same with less overlap."""
    masks: MaskConfig = field(default_factory=MaskConfig)
    """How dense maps become labels."""
    runtime: RuntimeConfig = field(default_factory=RuntimeConfig)
    """Where and how the network runs."""
    roi_size: int = 512
    """Side of the windows that the network sees, in pixels; a multiple of 32."""
    fit_budget: float | None = None
    """Fraction of the time tolerance to aim at, above 0 and up to 1: cheaper plans are used where
    ``plan`` would take longer. ``None`` keeps to ``plan``, however long it takes."""

    def __post_init__(self) -> None:
        _check(
            isinstance(self.roi_size, int) and self.roi_size >= 32 and self.roi_size % 32 == 0,
            f"found window size {self.roi_size}, expected a multiple of 32",
        )
        _check(
            self.fit_budget is None or 0 < self.fit_budget <= 1,
            f"found budget scale {self.fit_budget}, expected above 0 and up to 1",
        )
