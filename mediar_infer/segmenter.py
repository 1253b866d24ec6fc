"""The Python API: weights and settings once, then any number of images."""

import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from mediar_infer.arrays import CELLPROB, FLOW_X, FLOW_Y, Float32Array, LabelArray
from mediar_infer.config import EngineConfig
from mediar_infer.devices import describe_device, select_device, select_precision, usable_cores
from mediar_infer.engine.bands import MapBand, predict_bands
from mediar_infer.engine.bands_ahead import BandsAhead
from mediar_infer.engine.costs import Costs
from mediar_infer.engine.paced_bands import predict_paced_bands
from mediar_infer.engine.pacing import Deadline, Pacer
from mediar_infer.engine.plans import ladder_below
from mediar_infer.engine.preprocess import Scaling, compute_scaling
from mediar_infer.errors import CheckpointError, UsageError
from mediar_infer.images.sources import ArraySource, ImageSource
from mediar_infer.labels.blocks import label_bands
from mediar_infer.labels.kernels.choice import select_kernels
from mediar_infer.network.backends import Backend
from mediar_infer.network.backends.graphs import graph_name
from mediar_infer.network.checkpoints import Checkpoint, build_model
from mediar_infer.network.pending_weights import PendingWeights
from mediar_infer.stopwatch import Stopwatch

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Segmentation:
    """Result of one image in memory."""

    labels: LabelArray
    """``(H, W)`` int32, 0 = background, cells 1 … n."""
    flow: Float32Array
    """``(2, H, W)`` merged flow, (dy, dx), five times the unit flow."""
    cellprob: Float32Array
    """``(H, W)`` cell probability in [0, 1]."""
    timings: Mapping[str, float]
    """Seconds per stage."""
    warnings: Sequence[str]
    """What may make the result differ from what is expected."""
    budget: Mapping[str, Any] | None = None
    """With ``fit_budget``: the plan that was chosen, why, and what was dropped on the way."""

    @property
    def n_cells(self) -> int:
        """Number of cells found."""
        return int(self.labels.max(initial=0))


@dataclass(frozen=True, slots=True)
class Prepared:
    """What an image begins with, made before its turn or at its beginning."""

    scaling: Scaling
    """Its normalisation constants."""
    bands: BandsAhead | None
    """Its maps, being predicted by an accelerator already; None where they are not."""

    def close(self) -> None:
        """End what was begun."""
        if self.bands is not None:
            self.bands.close()


class Segmenter:
    """Models on a device, ready for images; build it with :meth:`from_weights`.

    Args:
        members: the models of the ensemble, on one device.
        config: settings.
        digests: weight file → SHA-256, for the ledger.
    """

    def __init__(
        self,
        members: Sequence[Backend],
        config: EngineConfig | None = None,
        digests: Mapping[str, str] | None = None,
    ) -> None:
        self.config = config or EngineConfig()
        self.members = list(members[: self.config.plan.max_members])
        self.digests = dict(digests or {})
        batch = self.config.runtime.batch or self.members[0].batch
        warms_up = is_apart = self.device.type != "cpu"
        self._costs = Costs(len(self.members), batch, warms_up=warms_up)
        # An accelerator goes on while the CPU makes labels; on a CPU both want the same cores.
        # Under a time budget each image has the machine for itself.
        runs_ahead = is_apart and self.config.fit_budget is None
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="network") if runs_ahead else None

    @classmethod
    def from_weights(
        cls,
        weights: Sequence[str | Path] | str | Path = (),
        config: EngineConfig | None = None,
        loading: PendingWeights | None = None,
    ) -> "Segmenter":
        """Load the models that a plan uses.

        Args:
            weights: a folder, or one or two files; by default the pair that comes with the package.
            config: settings; by default the paper's full system.
            loading: these weights, where a caller has begun to load them with these settings.

        Raises:
            CheckpointError: if weights are missing, damaged or of another network.
            UsageError: if the device is not there.
        """
        config = config or EngineConfig()
        if loading is None:
            given = [weights] if isinstance(weights, str | Path) else weights
            loading = PendingWeights([Path(path) for path in given], config)
        paths = loading.paths
        if len(paths) == 1 and config.plan.max_members > 1:
            logger.warning("%s: one model only, so there is no ensemble", paths[0])
        device = select_device(config.runtime.device)
        if device.type == "cpu":
            torch.set_num_threads(config.runtime.threads or usable_cores())
        checkpoints = loading.checkpoints()
        if len({checkpoint.digest for checkpoint in checkpoints}) < len(checkpoints):
            raise CheckpointError(
                f"found the same weights twice ({paths[0]} and {paths[1]}), expected two models;"
                " give one of them, or another second one"
            )
        members = _build_members(loading, checkpoints, config, device)
        loading.close()
        logger.info("%d model(s) on %s", len(members), describe_device(device))
        names = [checkpoint.path.name for checkpoint in checkpoints]
        if len(set(names)) < len(names):
            names = [str(checkpoint.path) for checkpoint in checkpoints]
        digests = {name: c.digest for name, c in zip(names, checkpoints, strict=True)}
        return cls(members, config, digests)

    @property
    def device(self) -> torch.device:
        """Where the models run."""
        return self.members[0].device

    def pacer(
        self,
        source: ImageSource,
        stopwatch: Stopwatch,
        started_s: float,
        extra_stages: Sequence[str] = (),
    ) -> Pacer | None:
        """Make what keeps an image inside its tolerance, if the settings ask for that.

        Args:
            source: the image.
            stopwatch: the image's stages.
            started_s: when the image's wall time began, by ``time.perf_counter``.
            extra_stages: stages behind the labels, ``write`` and ``overlay``.
        """
        config = self.config
        if config.fit_budget is None:
            return None
        return Pacer(
            ladder_below(config.plan, len(self.members)),
            self._costs,
            Deadline(source.name, source.height, source.width, started_s, config.fit_budget),
            stopwatch,
            extra_stages=extra_stages,
        )

    def prepare(self, source: ImageSource, stopwatch: Stopwatch) -> Prepared:
        """Find how an image is normalised; an accelerator begins with it as soon as it is free.

        Args:
            source: the image; not to be read by anyone else until the maps are complete.
            stopwatch: gains the stage preprocess, and later read and network.

        Returns:
            What ``label_bands`` can begin with, in the order in which images were prepared; to be
            closed.

        Raises:
            ImageReadError: if the image cannot be read or holds no finite value.
        """
        with stopwatch("preprocess"):
            scaling = compute_scaling(source)
        if self._pool is None:
            return Prepared(scaling, None)
        bands = predict_bands(source, scaling, self.members, self.config, stopwatch)
        return Prepared(scaling, BandsAhead(bands, self._pool))

    def label_bands(
        self,
        source: ImageSource,
        stopwatch: Stopwatch,
        see_maps: Callable[[MapBand], None] | None = None,
        pacer: Pacer | None = None,
        prepared: Prepared | None = None,
    ) -> Iterator[LabelArray]:
        """Segment an image of any size, streaming.

        Args:
            source: the image.
            stopwatch: gains the stages read, preprocess, network, labels, and with an accelerator
                wait.
            see_maps: called with each band of merged maps as it is finished.
            pacer: keeps the image inside its tolerance; none computes the whole plan.
            prepared: what ``prepare`` has made of the image, if it was called before.

        Yields:
            ``(rows, W)`` int32 labels from top to bottom, ids unique in the whole image.

        Raises:
            ImageReadError: if the image cannot be read or holds no finite value.
            PredictionError: if the network's output is not finite.
        """
        if prepared is None:
            with closing(self.prepare(source, stopwatch)) as prepared:
                yield from self.label_bands(source, stopwatch, see_maps, pacer, prepared)
            return
        inputs = (source, prepared.scaling, self.members, self.config, stopwatch)
        if pacer is not None:
            map_bands = predict_paced_bands(*inputs, pacer)
        else:
            ahead = prepared.bands
            map_bands = stopwatch.each("wait", ahead) if ahead else predict_bands(*inputs)

        def maps() -> Iterator[Float32Array]:
            for band in map_bands:
                if see_maps is not None:
                    see_maps(band)
                yield band.maps

        height, width = source.height, source.width
        kernels = select_kernels(self.device, self.config.runtime.threads)
        yield from label_bands(maps(), height, width, self.config.masks, kernels, stopwatch)

    def segment(self, image: npt.NDArray[Any]) -> Segmentation:
        """Segment an image that is in memory.

        Args:
            image: ``(H, W)`` or ``(H, W, C)``, any real dtype. Not modified.

        Returns:
            Labels, flow, cell probability and timings.

        Raises:
            ShapeError: if the array is no image.
        """
        source, stopwatch = ArraySource(image), Stopwatch()
        pacer = self.pacer(source, stopwatch, time.perf_counter())
        seen: list[Float32Array] = []
        bands = self.label_bands(source, stopwatch, lambda band: seen.append(band.maps), pacer)
        labels = np.concatenate(list(bands))
        if pacer:
            pacer.finish()
        maps = np.concatenate(seen, axis=1)
        # Beyond ±80 float32 holds no other probability than 0 and 1, and exp would overflow.
        cellprob = np.reciprocal(1 + np.exp(-maps[CELLPROB].clip(-80, 80)))
        return Segmentation(
            labels=labels,
            flow=maps[[FLOW_Y, FLOW_X]],
            cellprob=cellprob,
            timings=stopwatch.seconds,
            warnings=tuple(source.warnings),
            budget=pacer.report() if pacer else None,
        )


def _build_members(
    loading: PendingWeights,
    checkpoints: Sequence[Checkpoint],
    config: EngineConfig,
    device: torch.device,
) -> list[Backend]:
    runtime = config.runtime
    precision = select_precision(runtime.precision, device)
    fits_openvino = device.type == "cpu" and precision != "float16"
    if runtime.backend != "torch" and fits_openvino:
        graphs = loading.compiled()
    else:
        graphs = [None] * len(checkpoints)
    return [
        _build_backend(checkpoint, graph, config, device, precision)
        for checkpoint, graph in zip(checkpoints, graphs, strict=True)
    ]


def _build_backend(
    checkpoint: Checkpoint,
    graph: Any,  # noqa: ANN401 (OpenVINO has no types)
    config: EngineConfig,
    device: torch.device,
    precision: str,
) -> Backend:
    batch = config.runtime.batch
    if graph is not None:
        from mediar_infer.network.backends.openvino_backend import OpenVinoBackend

        return OpenVinoBackend(graph, batch)
    if config.runtime.backend == "openvino":
        raise UsageError(
            f"{checkpoint.path}: --backend openvino needs a CPU, float32 or bfloat16, and the"
            f" file {graph_name(checkpoint.architecture, config.roi_size)} beside the weights;"
            " make it with 'weights graph'"
        )
    from mediar_infer.network.backends.torch_backend import TorchBackend

    return TorchBackend(build_model(checkpoint), device, precision, batch)
