"""Labels → unit flow (a fifth of the training target), and the error of a predicted flow.

The method is that of Cellpose (Stringer et al., Nature Methods 18, 2021; BSD-3-Clause, notice in
LICENSE) as the released MEDIAR runs it; the loops are in ``kernels``.
"""

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from mediar_infer.arrays import Float32Array, LabelArray
from mediar_infer.labels.kernels import Float64Array, LabelKernels
from mediar_infer.labels.kernels.choice import select_kernels

_FEW_CELLS: Final = 10
"""Of fewer cells no share is reported: specks in an empty image are rightly removed."""


@dataclass(slots=True)
class FlowCheck:
    """How many cells the flow check examined and removed, summed over the blocks of an image."""

    n_checked: int = 0
    """Cells whose flow error was compared with the threshold."""
    n_removed: int = 0
    """Those of them that were removed."""

    def add(self, is_kept: npt.NDArray[np.bool_]) -> None:
        """Count cells that were checked; ``is_kept`` is one value per cell."""
        self.n_checked += is_kept.size
        self.n_removed += int(is_kept.size - np.count_nonzero(is_kept))

    @property
    def share_removed(self) -> float:
        """Share of the checked cells that were removed, 0 to 1; 0 where none was checked."""
        return self.n_removed / max(self.n_checked, 1)

    @property
    def warning(self) -> str | None:
        """What to say if most of many cells were removed."""
        if self.n_checked < _FEW_CELLS or self.share_removed <= 0.5:
            return None
        return (
            f"the flow check removed {self.n_removed} of {self.n_checked} cells"
            f" ({self.share_removed:.0%}), expected few; the network may not know this kind of"
            " image: look at the result, and raise --flow-threshold or turn it off"
        )

    def to_dict(self) -> dict[str, Any]:
        """Counts and share, as the ledger holds them."""
        counts = {"n_checked": self.n_checked, "n_removed": self.n_removed}
        return counts | {"share_removed": self.share_removed}


def compute_unit_flow(
    labels: npt.NDArray[np.integer], kernels: LabelKernels | None = None
) -> Float32Array:
    """Compute the unit flow of labelled cells by pseudo-diffusion.

    Args:
        labels: ``(H, W)`` integers, 0 = background. Not modified.
        kernels: implementation of the loops; by default the fastest one for a CPU.

    Returns:
        ``(2, H, W)`` float32, (dy, dx), unit length inside cells, zero outside.

    References:
        Stringer et al. 2021, Methods; cellpose/dynamics.py (masks_to_flows).
    """
    kernels = kernels or select_kernels()
    renumbered, n_labels = renumber_labels(labels)
    return kernels.unit_flow(
        renumbered, kernels.diffuse(renumbered, n_labels, same_iterations=True)
    )


def renumber_labels(labels: npt.NDArray[np.integer]) -> tuple[LabelArray, int]:
    """Renumber cells to 1 … n, keeping the order of their ids.

    Args:
        labels: ``(H, W)`` integers, 0 = background. Not modified.

    Returns:
        ``(H, W)`` int32, and the number of cells.
    """
    if labels.size and labels.min() >= 0 and labels.max() <= labels.size:
        # Marking the ids that occur is many times faster than sorting all pixels.
        occurs = np.zeros(int(labels.max()) + 1, np.int32)
        occurs[labels] = 1
        occurs[0] = 0
        new_ids: LabelArray = np.cumsum(occurs, dtype=np.int32)
        return new_ids[labels], int(new_ids[-1])
    ids, consecutive = np.unique(labels, return_inverse=True)
    # 0 stays 0 even where there is no background.
    shift = 0 if ids.size and ids[0] == 0 else 1
    renumbered = (consecutive.reshape(labels.shape) + shift).astype(np.int32)
    return renumbered, int(renumbered.max(initial=0))


def compute_flow_errors(
    labels: LabelArray, flow: Float32Array, kernels: LabelKernels | None = None
) -> Float64Array:
    """Compute the flow error of each cell: its predicted flow against its ideal flow.

    Args:
        labels: ``(H, W)`` int32, ids 1 … n without gaps.
        flow: ``(2, H, W)`` float32, network scale (five times the unit flow).
        kernels: implementation of the loops; by default the fastest one for a CPU.

    Returns:
        ``(n,)`` float64: mean over the cell's pixels of the squared difference, y and x summed.
    """
    kernels = kernels or select_kernels()
    sizes = np.bincount(labels.ravel())
    errors = np.zeros(len(sizes), np.float64)
    if len(sizes) > 1:
        warmth = kernels.diffuse(labels, len(sizes) - 1, same_iterations=True)
        kernels.add_flow_errors(labels, warmth, flow, errors)
    return errors[1:] / sizes[1:]
