"""Ways to run the network: a window batch in, logits out."""

from typing import Protocol

import torch
from torch import Tensor


class Backend(Protocol):
    """One ensemble member, ready to predict."""

    name: str
    """What runs the network: ``torch`` or ``openvino``."""
    precision: str
    """``float32``, ``float16`` or ``bfloat16``."""
    device: torch.device
    """Where the batch must lie and where the logits are returned."""
    batch: int
    """Windows per call that suit this backend."""

    def __call__(self, inputs: Tensor) -> Tensor:
        """Predict logits.

        Args:
            inputs: ``(N, 3, h, w)`` float32 in [0, 1] on ``device``. Not modified.

        Returns:
            ``(N, 3, h, w)`` float32 on ``device``; channels FLOW_Y, FLOW_X, CELLPROB (logit). The
            caller may change it.
        """
        ...
