"""The network through OpenVINO: several times faster than torch on a CPU, same numbers."""

from collections.abc import Callable
from contextlib import suppress
from threading import Lock
from typing import Any

import numpy as np

from mediar_infer.arrays import Float32Array
from mediar_infer.devices import CPU


class OpenVinoBackend:
    """A compiled checkpoint; windows are predicted one per stream, side by side.

    Several threads may use it at once; they share its streams.

    Args:
        compiled: network from ``openvino_graph.compile_graph``.
        batch: windows per call; 0 takes two per stream.
        precision: what it was compiled for; int8 that is mixed with bfloat16 on this CPU becomes
            ``int8+bfloat16``, because its labels may differ from those of another CPU.
    """

    def __init__(
        self,
        compiled: Any,  # noqa: ANN401 (no types)
        batch: int = 0,
        precision: str = "float32",
    ) -> None:
        self._compiled, self._streams = compiled, compiled.get_property("NUM_STREAMS")
        is_mixed = precision == "int8" and _computes_in_bfloat16(compiled)
        self.name, self.precision = "openvino", "int8+bfloat16" if is_mixed else precision
        self.device = CPU
        self.batch = batch or 2 * self._streams
        self._queue = self._make_queue()
        # The queue may offer two threads the same idle request, and one would get the other's maps.
        self._starting = Lock()

    def __del__(self) -> None:
        # The library crashes or hangs if requests are freed in flight.
        if hasattr(self, "_queue"):
            _wait_until_idle(self._queue)

    def start(self, inputs: Float32Array) -> Callable[[], Float32Array]:
        """Start to predict logits; see :class:`mediar_infer.network.backends.Backend`."""
        # NaN, so that a window that is lost cannot pass for a result.
        logits = np.full(inputs.shape, np.nan, dtype=np.float32)
        kept: list[bool] = []
        with self._starting:
            for i in range(len(inputs)):
                window, target = inputs[i : i + 1], (logits[i], kept)
                try:
                    self._start_window(window, target)
                except Exception:
                    # Of an earlier window: of this call, or of another thread and no concern here.
                    if len(kept) < i:
                        raise
                    self._start_window(window, target)
            queue = self._queue

        def finish() -> Float32Array:
            try:
                queue.wait_all()
            except Exception:
                with self._starting:
                    self._replace(queue)
                if len(kept) < len(inputs):
                    raise
            return logits

        return finish

    def _start_window(self, window: Float32Array, target: Any) -> None:  # noqa: ANN401
        """Start one window; if that fails, all that were started have ended, in a new queue."""
        try:
            self._queue.start_async({0: window}, userdata=target)
        except Exception:
            self._replace(self._queue)
            raise

    def _replace(self, queue: Any) -> None:  # noqa: ANN401 (OpenVINO has no types)
        """Let all requests of a failed queue end, and use a new one: a queue repeats its error."""
        _wait_until_idle(queue)
        if queue is self._queue:
            self._queue = self._make_queue()

    def _make_queue(self) -> Any:  # noqa: ANN401 (OpenVINO has no types)
        import openvino

        queue = openvino.AsyncInferQueue(self._compiled, self._streams)
        queue.set_callback(_keep_result)
        return queue


def _computes_in_bfloat16(compiled: Any) -> bool:  # noqa: ANN401 (OpenVINO has no types)
    return "bfloat16" in repr(compiled.get_property("INFERENCE_PRECISION_HINT"))


def _wait_until_idle(queue: Any) -> None:  # noqa: ANN401 (OpenVINO has no types)
    for request in queue:
        with suppress(Exception):  # of a window that failed; wait_all would leave it at the first
            request.wait()


def _keep_result(request: Any, target: Any) -> None:  # noqa: ANN401 (OpenVINO has no types)
    logits, kept = target
    logits[...] = request.get_output_tensor(0).data[0]
    kept.append(True)
