"""Ways to run the network: a window batch in, logits out."""

import sys
from collections.abc import Callable
from typing import Any, Protocol

from mediar_infer.devices import Device

# OpenVINO reports every import to its vendor, by a thread and a forked process that start while the
# weights are loaded. Without this module it skips that.
sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]


class Backend(Protocol):
    """One ensemble member, ready to predict."""

    name: str
    """What runs the network: ``torch`` or ``openvino``."""
    precision: str
    """``float32``, ``float16``, ``bfloat16``, ``int8`` or ``int8+bfloat16``."""
    device: Device
    """Where the batch must lie and where the logits are returned: numpy arrays for the CPU, torch
    tensors for anything else."""
    batch: int
    """Windows per call that suit this backend."""

    def start(self, inputs: Any) -> Callable[[], Any]:  # noqa: ANN401 (array of the device)
        """Start to predict logits; several members may run at the same time.

        Args:
            inputs: ``(N, 3, h, w)`` float32 in [0, 1] on ``device``. Not modified.

        Returns:
            A function that waits for the logits and returns them, to be called once:
            ``(N, 3, h, w)`` float32 on ``device``; channels FLOW_Y, FLOW_X, CELLPROB (logit). The
            caller may change them.
        """
        ...
