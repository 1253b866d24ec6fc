"""Everything that can be set, as frozen dataclasses that check themselves."""

from dataclasses import dataclass, field
from typing import Literal

from mediar_infer.errors import UsageError

FlipName = Literal["identity", "horizontal", "vertical"]
BlockMode = Literal["auto", "paper", "stitched"]
Precision = Literal["auto", "float32", "float16", "bfloat16"]

ALL_FLIPS: tuple[FlipName, ...] = ("identity", "horizontal", "vertical")
LARGE_IMAGE_PIXELS = 5000 * 5000
"""From this many pixels on the released system labels an image block by block."""


def _check(holds: bool, message: str) -> None:
    if not holds:
        raise UsageError(message)


@dataclass(frozen=True, slots=True)
class Plan:
    """What is computed for an image: the choices that trade quality for time."""

    name: str = "paper"
    """Name of the plan this was made from."""
    max_members: int = 2
    """How many of the given models are used, in their order."""
    flips: tuple[FlipName, ...] = ALL_FLIPS
    """Test-time augmentation passes of the whole image."""
    overlap: float = 0.6
    """Overlap of neighbouring windows as a fraction of their size, in [0, 1)."""

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
"""Rows of the paper's Table 4: the full system, one model without flips, and a cheaper one yet."""


@dataclass(frozen=True, slots=True)
class MaskConfig:
    """How dense maps become labels (released values)."""

    cellprob_threshold: float = 0.5
    """Pixels with a higher cell probability are foreground."""
    min_size: int = 16
    """Holes and objects of the foreground with fewer pixels are filled and dropped."""
    flow_threshold: float | None = 0.4
    """Cells with a larger flow error are removed; None keeps all."""
    max_fraction: float = 0.9
    """Cells that cover more of the image than this are removed."""
    blocks: BlockMode = "auto"
    """``paper``: non-overlapping blocks for large images, as released; ``stitched``: no cell is cut
    and the result does not depend on the block size; ``auto``: whole image below 25 MP, stitched
    above."""
    block_size: int = 0
    """Side of a block in ``paper`` mode, rows worked on at once in ``stitched`` mode; 0 takes 2000
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
    """``auto``, ``cpu``, ``cuda``, ``cuda:N`` or ``mps``."""
    precision: Precision = "auto"
    """``auto`` is float16 on CUDA and float32 elsewhere; accumulation is always float32."""
    backend: Literal["auto", "torch", "openvino"] = "auto"
    """``auto`` takes OpenVINO on a CPU where the weights come with an exported graph."""
    batch: int = 0
    """Windows per network call; 0 lets the backend choose."""
    threads: int = 0
    """CPU threads; 0 takes the cores this process may use."""

    def __post_init__(self) -> None:
        _check(self.batch >= 0, f"found batch {self.batch}, expected 0 (automatic) or more")
        _check(self.threads >= 0, f"found {self.threads} threads, expected 0 (all) or more")


@dataclass(frozen=True, slots=True)
class EngineConfig:
    """All settings of one run."""

    plan: Plan = field(default_factory=Plan)
    masks: MaskConfig = field(default_factory=MaskConfig)
    runtime: RuntimeConfig = field(default_factory=RuntimeConfig)
    roi_size: int = 512
    """Side of the windows that the network sees; a multiple of 32."""
    fit_budget: float | None = None
    """Fraction of the time tolerance to aim at, in (0, 1]; cheaper plans are taken where ``plan``
    would take longer. None keeps to ``plan``, however long it takes."""

    def __post_init__(self) -> None:
        _check(
            isinstance(self.roi_size, int) and self.roi_size >= 32 and self.roi_size % 32 == 0,
            f"found window size {self.roi_size}, expected a multiple of 32",
        )
        _check(
            self.fit_budget is None or 0 < self.fit_budget <= 1,
            f"found budget scale {self.fit_budget}, expected above 0 and up to 1",
        )
