"""Channel order and array names shared by the whole package."""

from typing import Any, Final

import numpy as np
import numpy.typing as npt

FLOW_Y: Final = 0
"""Channel of the vertical flow in network outputs and merged maps."""
FLOW_X: Final = 1
"""Channel of the horizontal flow."""
CELLPROB: Final = 2
"""Channel of the cell-probability logit; the channels before it are the flow."""

FLOW_SCALE: Final = 5.0
"""The network predicts five times the unit flow (the training target of the paper)."""

Float32Array = npt.NDArray[np.float32]
BoolArray = npt.NDArray[np.bool_]
LabelArray = npt.NDArray[np.int32]
AnyArray = npt.NDArray[Any]
"""Of any data type, such as that of a file."""
