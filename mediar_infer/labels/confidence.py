"""How well the maps of an image support each of its cells."""

import numpy as np
import numpy.typing as npt

from mediar_infer.arrays import AnyArray, Float32Array, LabelArray
from mediar_infer.labels.kernels import Float64Array


def to_probability(logits: Float32Array) -> Float32Array:
    """Sigmoid of cell-probability logits, float32 in [0, 1]."""
    # Beyond ±80 the probability is exactly 0 or 1 in float32, and exp would overflow.
    probability: Float32Array = np.reciprocal(1 + np.exp(-logits.clip(-80, 80)))
    return probability


class CellConfidence:
    """Two numbers per cell that say how sure the network is of it; low and high, in this order.

    Give one to :meth:`mediar_infer.image_work.ImageWork.labels`: it is filled as the labels are
    taken. The values of a cell are final once the band with the cell's last row has been yielded.
    Values of cell ``i`` have index ``i - 1``.
    """

    def __init__(self) -> None:
        self._n_checked = self._n_seen = 0
        self._flow_error = np.empty(0, np.float64)
        self._cellprob_sum = np.empty(0, np.float64)
        self._size = np.empty(0, np.int64)

    @property
    def mean_cellprob(self) -> Float64Array:
        """``(n,)`` float64 in [0, 1]: mean cell probability over the pixels of the labels."""
        n = self._n_seen
        mean: Float64Array = self._cellprob_sum[:n] / np.maximum(self._size[:n], 1)
        return mean

    @property
    def flow_error(self) -> Float64Array:
        """``(n,)`` float64: mean squared difference between predicted and ideal unit flow.

        The value that the flow check compares with its threshold, so measured before any hole is
        filled; 0 is perfect, and 2 is that of unrelated unit vectors.
        """
        return self._flow_error[: self._n_checked].copy()

    def add_flow_errors(self, errors: Float64Array) -> None:
        """Note the flow errors of the next cells, in the order of their ids."""
        n = self._n_checked + len(errors)
        self._flow_error = _with_room(self._flow_error, n)
        self._flow_error[self._n_checked : n] = errors
        self._n_checked = n

    def add_pixels(self, labels: LabelArray, logits: Float32Array) -> None:
        """Note the pixels of final labels, from top to bottom.

        Args:
            labels: ``(rows, W)`` int32.
            logits: ``(rows, W)`` float32, cell-probability logits.
        """
        inside = labels > 0
        index = labels[inside] - 1
        self._n_seen = max(self._n_seen, int(index.max(initial=-1)) + 1)
        self._cellprob_sum = _with_room(self._cellprob_sum, self._n_seen)
        self._size = _with_room(self._size, self._n_seen)
        # One pixel after the other: the sum does not depend on how many rows come at a time.
        np.add.at(self._cellprob_sum, index, to_probability(logits[inside]))
        np.add.at(self._size, index, 1)

    def take_cells(self, other: "CellConfidence", ids: npt.NDArray[np.integer]) -> None:
        """Take over cells of labels that have been renumbered: cell ``i + 1`` was ``ids[i]``."""
        self._n_checked = self._n_seen = len(ids)
        self._flow_error = other._flow_error[ids - 1]
        self._cellprob_sum, self._size = other._cellprob_sum[ids - 1], other._size[ids - 1]


def _with_room(values: AnyArray, n: int) -> AnyArray:
    """The values with zeros after them, enough for ``n`` in all; grows by doubling."""
    if n <= len(values):
        return values
    room = np.zeros(max(n, 2 * len(values)) - len(values), values.dtype)
    return np.concatenate([values, room])
