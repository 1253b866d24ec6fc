"""Everything that can be set, as frozen dataclasses that check themselves.

The docstring under a field is also the help of the option that sets it.
"""

import math
import re
from dataclasses import dataclass, field, fields, replace
from typing import TYPE_CHECKING, Final, Literal, get_args

from mediar_infer.errors import UsageError

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

FlipName = Literal["identity", "horizontal", "vertical"]
BlockMode = Literal["auto", "paper", "stitched"]
Precision = Literal["auto", "float32", "float16", "bfloat16", "int8"]
BackendChoice = Literal["auto", "torch", "openvino"]

ALL_FLIPS: tuple[FlipName, ...] = ("identity", "horizontal", "vertical")
LARGE_IMAGE_PIXELS = 5000 * 5000
"""Images of this many pixels or more are large: the challenge's scorer, and the released system
after it, divide them into blocks."""
LARGE_IMAGE_BLOCK = 2000
"""Side of those blocks in pixels."""


def _check(holds: bool, message: str) -> None:
    if not holds:
        raise UsageError(message)


def make_plain(settings: "DataclassInstance") -> None:
    """Turn numbers of numpy, as loops over thresholds give them, into those of Python.

    Others cannot be written into ledgers and label files.

    Args:
        settings: a frozen dataclass that is being built; changed.
    """
    for each in fields(settings):
        value = getattr(settings, each.name)
        if type(value).__module__ == "numpy" and getattr(value, "shape", None) == ():
            object.__setattr__(settings, each.name, value.item())


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
    packed: bool = False
    """Whether windows of an image that is narrower than half a window share one, as many as fit."""

    def __post_init__(self) -> None:
        make_plain(self)
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


FlowThreshold = float | Literal["auto"] | None
"""Flow error above which a cell is removed, or that the weights decide, or that all are kept."""
RELEASED_FLOW_THRESHOLD: Final = 0.4


def parse_flow_threshold(text: str) -> FlowThreshold:
    """Read a flow threshold such as ``0.5``, ``auto`` or ``none``.

    ``off``, as version 0.1.0 called the last, is understood too.

    Raises:
        UsageError: if it is none of them.
    """
    text = text.strip()
    if text == "auto":
        return "auto"
    try:
        return None if text in ("none", "off") else float(text)
    except ValueError:
        raise UsageError(
            f"found flow threshold {text!r}, expected a number, auto or none"
        ) from None


@dataclass(frozen=True, slots=True)
class MaskConfig:
    """How dense maps become labels; all defaults but ``fill_holes`` are the released values."""

    cellprob_threshold: float = 0.5
    """Cell probability above which a pixel belongs to a cell, 0 to 1."""
    min_size: int = 16
    """Objects and holes of fewer pixels are removed and filled."""
    flow_threshold: FlowThreshold = "auto"
    """Flow error above which a cell is removed; ``auto`` is what the weights state, or the released
    0.4, and ``None`` keeps all cells."""
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
        make_plain(self)
        _check(
            0 < self.cellprob_threshold < 1,
            f"found cell-probability threshold {self.cellprob_threshold}, expected 0 to 1",
        )
        _check(self.min_size >= 0, f"found minimum size {self.min_size}, expected 0 or more")
        _check(
            self.flow_threshold in ("auto", None)
            or (
                isinstance(self.flow_threshold, int | float) and 0 <= self.flow_threshold < math.inf
            ),
            f"found flow threshold {self.flow_threshold}, expected a finite number, 0 or more; use"
            " none to keep all cells",
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

    @property
    def max_flow_error(self) -> float | None:
        """Flow error above which a cell is removed; None keeps all cells."""
        return RELEASED_FLOW_THRESHOLD if self.flow_threshold == "auto" else self.flow_threshold

    def for_weights(self, flow_threshold: float | None) -> "MaskConfig":
        """Copy in which the weights have decided what is left to them.

        Args:
            flow_threshold: what the weights state; None if they state none.
        """
        stated = self.max_flow_error if flow_threshold is None else flow_threshold
        return replace(self, flow_threshold=stated) if self.flow_threshold == "auto" else self


@dataclass(frozen=True, slots=True)
class RuntimeConfig:
    """Where and how the network runs; changes speed, not the result beyond rounding."""

    device: str = "auto"
    """Where to run the network: ``auto``, ``cpu``, ``cuda``, ``cuda:N`` or ``mps``."""
    precision: Precision = "auto"
    """Number format of the network; ``auto`` is float16 on CUDA and float32 elsewhere, and sums are
    always float32. ``int8`` is for CPUs and needs calibrated ranges beside the weights."""
    backend: BackendChoice = "auto"
    """What runs the network; ``auto`` is OpenVINO on a CPU if the weights come with an exported
    graph, and torch otherwise."""
    batch: int = 0
    """Windows per network call; 0 lets the backend choose."""
    threads: int = 0
    """CPU threads; 0 uses every core that this process may use."""

    def __post_init__(self) -> None:
        make_plain(self)
        _check(self.batch >= 0, f"found batch {self.batch}, expected 0 (automatic) or more")
        _check(self.threads >= 0, f"found {self.threads} threads, expected 0 (all) or more")
        for what, name, names in (
            ("precision", self.precision, get_args(Precision)),
            ("backend", self.backend, get_args(BackendChoice)),
        ):
            _check(name in names, f"found {what} {name!r}, expected one of {', '.join(names)}")
        _check(
            self.precision != "int8" or self.backend != "torch",
            "found precision int8 for torch, expected OpenVINO; use --backend auto, or another"
            " --precision",
        )


MIN_SCALE: Final = 0.1
MAX_SCALE: Final = 8.0
Scale = float | Literal["auto"]
"""Size at which the networks see an image, relative to its own, or that it is to be found."""


def parse_scale(text: str) -> Scale:
    """Read a scale such as ``2``, ``0.5`` or ``auto``.

    Raises:
        UsageError: if it is neither a number nor ``auto``.
    """
    try:
        return "auto" if text.strip() == "auto" else float(text)
    except ValueError:
        raise UsageError(f"found scale {text!r}, expected a number or auto") from None


@dataclass(frozen=True, slots=True)
class CellSize:
    """Diameter of the cells of an image."""

    value: float
    """Diameter of a circle of a typical cell's area."""
    unit: Literal["px", "um"] = "px"
    """Pixels of the image, or micrometres, for which the image must state its pixel size."""

    def __post_init__(self) -> None:
        make_plain(self)
        _check(
            0 < self.value < math.inf and self.unit in ("px", "um"),
            f"found cell size {self.value} {self.unit}, expected a number above 0 and px or um",
        )

    def __str__(self) -> str:
        return f"{self.value:g} {'µm' if self.unit == 'um' else self.unit}"

    @classmethod
    def parse(cls, text: str) -> "CellSize":
        """Read a size such as ``30``, ``30px``, ``12um`` or ``12.5 µm``.

        Raises:
            UsageError: if it is none.
        """
        match = re.fullmatch(r"([0-9]*\.?[0-9]+)\s*(px|um|[µμ]m)?", text.strip())
        if match is None:
            raise UsageError(
                f"found cell size {text!r}, expected a diameter in pixels such as 30, or in"
                " micrometres such as 12um"
            )
        return cls(float(match[1]), "px" if match[2] in (None, "px") else "um")


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
    scale: Scale = 1.0
    """Size at which the networks see the image, 0.1 to 8: 2 shows cells twice as large, for cells
    much smaller than those of the training images. ``auto`` tries several on parts of the image."""
    cell_size: CellSize | None = None
    """In place of a scale: typical diameter of the cells, in pixels, or in micrometres if the
    image states its pixel size, such as ``12um``. They are shown at the median size of training."""
    fit_budget: float | None = None
    """Fraction of the time tolerance to aim at, above 0 and up to 1: cheaper plans are used where
    ``plan`` would take longer. ``None`` keeps to ``plan``, however long it takes."""
    outside_s: float = 0.0
    """With a time budget: seconds of each image's tolerance that pass outside this process, such as
    for the start and the removal of its container."""

    def __post_init__(self) -> None:
        make_plain(self)
        _check(
            isinstance(self.roi_size, int) and self.roi_size >= 32 and self.roi_size % 32 == 0,
            f"found window size {self.roi_size}, expected a multiple of 32",
        )
        _check(
            self.fit_budget is None or 0 < self.fit_budget <= 1,
            f"found budget scale {self.fit_budget}, expected above 0 and up to 1",
        )
        _check(
            0 <= self.outside_s < math.inf,
            f"found {self.outside_s} s outside the process, expected 0 or more",
        )
        _check(
            self.scale == "auto"
            or (isinstance(self.scale, int | float) and MIN_SCALE <= self.scale <= MAX_SCALE),
            f"found scale {self.scale}, expected {MIN_SCALE} to {MAX_SCALE:g}, or auto",
        )
        _check(
            self.cell_size is None or isinstance(self.cell_size, CellSize),
            f"found cell size {self.cell_size!r}, expected a CellSize, such as CellSize(30) or"
            ' CellSize.parse("12um")',
        )
        _check(
            self.cell_size is None or self.scale == 1,
            f"found scale {self.scale} and cell size {self.cell_size}, expected one of them",
        )

    @property
    def is_rescaled(self) -> bool:
        """Whether the networks may see images at another size than their own."""
        return self.scale != 1 or self.cell_size is not None
