"""Weights that are still being read, checked and compiled, in threads of their own.

Nothing here needs torch: a new process starts to read before it imports torch, so both run at the
same time.
"""

import logging
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any

from mediar_infer.config import EngineConfig
from mediar_infer.devices import is_cpu_for_sure, require_torch, usable_cores
from mediar_infer.network.checkpoints import (
    Checkpoint,
    check_entries,
    find_graph_of,
    read_checkpoint,
)
from mediar_infer.network.int8_ranges import read_ranges, require_ranges
from mediar_infer.network.weight_files import find_weights
from mediar_infer.process import POOL_PREFIX

logger = logging.getLogger(__name__)


class PendingWeights:
    """The weight files that a plan uses; reading starts with the constructor.

    If the network is certain to run on the CPU, exported graphs are compiled too.

    Args:
        weights: a folder, or one or two files; empty for the pair that comes with the package.
        config: plan and runtime settings.

    Raises:
        CheckpointError: if there are no such files, or no ranges beside them for int8.
        UsageError: if torch is asked for and not installed.
    """

    def __init__(self, weights: Sequence[Path], config: EngineConfig) -> None:
        runtime = config.runtime
        if runtime.backend == "torch" or runtime.precision == "float16":
            require_torch(f"--backend {runtime.backend}, precision {runtime.precision}")
        n_used = config.plan.max_members
        self.paths = find_weights(weights)[:n_used]
        for path in weights[n_used:]:
            logger.warning(
                "%s: not used, as plan %s takes %d model(s), expected as many weight files; choose"
                " another --plan, or --models %d",
                *(path, config.plan.name, n_used, len(weights)),
            )
        self.config = config
        if runtime.precision == "int8":
            for path in self.paths:
                require_ranges(path)
        self._pool = ThreadPoolExecutor(len(self.paths), thread_name_prefix=f"{POOL_PREFIX}weights")
        self._checkpoints = [self._pool.submit(read_checkpoint, path) for path in self.paths]
        self._graphs: list[Future[Any]] = []
        self._compiled: list[Future[Any]] = []
        if (
            runtime.backend != "torch"
            and runtime.precision != "float16"
            and is_cpu_for_sure(runtime.device)
        ):
            self._start_compiling()

    def _start_compiling(self) -> None:
        # In this order, no task in the queue waits for one behind it.
        self._graphs = [self._pool.submit(self._read_graph, each) for each in self._checkpoints]
        self._compiled = [self._pool.submit(self._compile, each) for each in self._graphs]

    def _read_graph(self, reading: Future[Checkpoint]) -> Any:  # noqa: ANN401 (no types)
        checkpoint = reading.result()
        path = find_graph_of(checkpoint, self.config.roi_size)
        if path is None:
            return None
        check_entries(checkpoint, path)
        from mediar_infer.network.backends.openvino_graph import read_graph, round_to_int8

        graph = read_graph(checkpoint, path)
        if self.config.runtime.precision == "int8":
            round_to_int8(graph, read_ranges(checkpoint))
        return graph

    def _compile(self, reading: Future[Any]) -> Any:  # noqa: ANN401 (no types)
        if (graph := reading.result()) is None:
            return None
        from mediar_infer.network.backends.openvino_graph import compile_graph

        runtime = self.config.runtime
        precision = "float32" if runtime.precision == "auto" else runtime.precision
        return compile_graph(graph, runtime.threads or usable_cores(), precision)

    def wait_for_interpreter(self) -> None:
        """Wait until only compilation, which does not hold the interpreter lock, is left.

        A thread that imports modules holds the lock for long stretches; threads that still need it
        would start to compile only after the last import.
        """
        wait(self._graphs)

    def checkpoints(self) -> list[Checkpoint]:
        """Wait for the weights and check them.

        Raises:
            CheckpointError: if a file is damaged, swapped, or of another network.
        """
        checkpoints = [reading.result() for reading in self._checkpoints]
        graphs = [reading.result() for reading in self._graphs] or [None] * len(checkpoints)
        for checkpoint, graph in zip(checkpoints, graphs, strict=True):
            if graph is None:  # the others were checked when their graphs were read
                check_entries(checkpoint)
        return checkpoints

    def compiled(self) -> list[Any]:
        """Wait for the exported graphs, one per file and compiled for this CPU; None without one.

        Raises:
            CheckpointError: if a graph is damaged or does not fit the weights.
        """
        if not self._compiled:
            self._start_compiling()
        return [compiling.result() for compiling in self._compiled]

    def close(self) -> None:
        """Cancel what has not started and let the threads finish."""
        self._pool.shutdown(wait=False, cancel_futures=True)
