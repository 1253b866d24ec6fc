"""The Python API: weights and settings once, then any number of images."""

import logging
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import Any, NoReturn

import numpy as np
import numpy.typing as npt

from mediar_infer.arrays import CELLPROB, FLOW_X, FLOW_Y, Float32Array, LabelArray
from mediar_infer.config import EngineConfig
from mediar_infer.devices import Device, available_cores, describe_device, select_device
from mediar_infer.engine.bands import predict_bands
from mediar_infer.engine.bands_ahead import BandsAhead
from mediar_infer.engine.costs import Costs
from mediar_infer.engine.merging import merge_channels
from mediar_infer.engine.paced_bands import predict_paced_bands
from mediar_infer.engine.pacing import Deadline, Pacer
from mediar_infer.engine.packing import can_pack
from mediar_infer.engine.plans import ladder_below
from mediar_infer.engine.preprocess import Scaling, compute_scaling
from mediar_infer.engine.resampling import resize_whole, scaled_shape
from mediar_infer.errors import CheckpointError, UsageError
from mediar_infer.image_trace import Trace
from mediar_infer.image_work import Bands, ImageWork, check_memory, check_result_memory
from mediar_infer.images.channels import check_choice
from mediar_infer.images.sources import ArraySource, ImageSource
from mediar_infer.labels.blocks import Labelling
from mediar_infer.labels.confidence import CellConfidence, to_probability
from mediar_infer.labels.kernels.choice import select_kernels
from mediar_infer.network.backends import Backend
from mediar_infer.network.checkpoints import Checkpoint
from mediar_infer.network.int8_ranges import ranges_path
from mediar_infer.network.members import build_members
from mediar_infer.network.pending_weights import PendingWeights
from mediar_infer.network.weight_files import compute_digest
from mediar_infer.process import POOL_PREFIX, watch_forks

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
    """What may make the result differ from what a user expects."""
    budget: Mapping[str, Any] | None = None
    """With ``fit_budget``: the plan that was chosen, why, and what was dropped on the way."""
    confidence: CellConfidence | None = None
    """Mean cell probability and flow error of every cell, if they were asked for."""

    @property
    def n_cells(self) -> int:
        """Number of cells found."""
        return int(self.labels.max(initial=0))


class Segmenter:
    """Models on a device, ready for images; build it with :meth:`from_weights`.

    A segmenter belongs to the process that built it: the threads of torch and OpenVINO do not
    survive a fork, and models are not sent to other processes. Let every worker of a pool, a
    DataLoader, joblib or Dask build its own, once (``functools.lru_cache`` around a function that
    calls :meth:`from_weights` does that), and start workers by ``spawn`` or ``forkserver``::

        context = multiprocessing.get_context("spawn")
        with context.Pool(4, initializer=load_segmenter) as pool: ...

    Use in a forked process, and pickling, are errors that say so. Threads of one process may share
    a segmenter; with ``fit_budget``, let it segment one image at a time.

    Args:
        members: the models of the ensemble, on one device.
        config: settings.
        digests: weight file → SHA-256, for the ledger.
        cell_diameter: median diameter in pixels of the cells that they were trained on, if known.
        flow_threshold: flow error above which their cells are removed, if one was found for them;
            for settings that leave it to the weights.

    Raises:
        UsageError: in a process that was forked from one that held a segmenter, or if images
            cannot be shown at the size that ``config`` asks for.
    """

    def __init__(
        self,
        members: Sequence[Backend],
        config: EngineConfig | None = None,
        digests: Mapping[str, str] | None = None,
        cell_diameter: float | None = None,
        flow_threshold: float | None = None,
    ) -> None:
        _check_not_forked()
        config = config or EngineConfig()
        self.config = replace(config, masks=config.masks.for_weights(flow_threshold))
        self.cell_diameter, self.flow_threshold = cell_diameter, flow_threshold
        if self.config.is_rescaled:
            from mediar_infer.scales.choice import check_cell_size

            check_cell_size(self.config, cell_diameter)
        self.members = list(members[: self.config.plan.max_members])
        self.digests = dict(digests or {})
        batch = self.config.runtime.batch or self.members[0].batch
        is_apart = self.device.type != "cpu"
        self._costs = Costs(len(self.members), batch, warms_up=is_apart)
        # An accelerator goes on while the CPU makes labels; on a CPU both need the same cores.
        # Under a time budget each image has the machine to itself.
        runs_ahead = is_apart and self.config.fit_budget is None
        self._pool = (
            ThreadPoolExecutor(1, thread_name_prefix=f"{POOL_PREFIX}network")
            if runs_ahead
            else None
        )

    @classmethod
    def from_weights(
        cls,
        weights: Sequence[str | Path] | str | Path = (),
        config: EngineConfig | None = None,
    ) -> "Segmenter":
        """Load the models that a plan uses.

        Args:
            weights: a folder, or one or two files; by default the pair that comes with the package.
            config: settings; by default the paper's full system.

        Raises:
            CheckpointError: if weights are missing, damaged or of another network.
            UsageError: if the device does not exist.
        """
        given = [weights] if isinstance(weights, str | Path) else weights
        return cls.from_pending(
            PendingWeights([Path(path) for path in given], config or EngineConfig())
        )

    @classmethod
    def from_pending(cls, loading: PendingWeights) -> "Segmenter":
        """Build the models from weights that are being loaded.

        Args:
            loading: the weights, with their settings; closed here.

        Raises:
            CheckpointError: if weights are damaged, the same twice, or of another network.
            UsageError: if the device does not exist.
        """
        _check_not_forked()
        paths, config = loading.paths, loading.config
        if len(paths) == 1 and config.plan.max_members > 1:
            logger.warning("%s: one model only, so there is no ensemble", paths[0])
        device = select_device(config.runtime.device)
        if device.type == "cpu":
            _warn_of_many_threads(config.runtime.threads)
        checkpoints = loading.checkpoints()
        if len({checkpoint.digest for checkpoint in checkpoints}) < len(checkpoints):
            raise CheckpointError(
                f"found the same weights twice ({paths[0]} and {paths[1]}), expected two models;"
                " give one of them, or another second one"
            )
        members = build_members(loading, checkpoints, config, device)
        loading.close()
        logger.info("%d model(s) on %s", len(members), describe_device(device))
        digests = _list_digests(checkpoints, with_ranges=config.runtime.precision == "int8")
        return cls(
            members,
            config,
            digests,
            _mean_of_known([checkpoint.cell_diameter for checkpoint in checkpoints]),
            _mean_of_known([checkpoint.flow_threshold for checkpoint in checkpoints]),
        )

    def __reduce__(self) -> NoReturn:
        raise UsageError(
            "found a Segmenter that is to be sent to another process or copied, expected one per"
            " process; call Segmenter.from_weights in the worker, once per process"
        )

    @property
    def device(self) -> Device:
        """Where the models run."""
        return self.members[0].device

    def begin(
        self, source: ImageSource, trace: Trace, *, later_stages: Sequence[str] = ()
    ) -> ImageWork:
        """Begin with an image of any size: find its scaling, and start an accelerator on it.

        Channels that are to be merged are normalised each on its own first.

        An accelerator predicts images in the order in which they were begun, so their labels must
        be taken in that order.

        Args:
            source: the image; nothing else may read it until the work has ended. It is left open.
            trace: gains the stages ``read``, ``preprocess``, ``network``, ``labels`` and, with an
                accelerator, ``wait``; and warnings, those of the image included.
            later_stages: stages that follow the labels, such as ``write``, whose time a budget
                sets aside.

        Returns:
            The work, to be used as a context manager.

        Raises:
            ImageReadError: if the image cannot be read, has no finite value, or takes more memory
                than this process may still use; with a cell size in micrometres, if the file
                states no pixel size.
            UsageError: in a process that was forked from the one that built this segmenter.
        """
        _check_not_forked()
        self._choose_scale(source, trace)
        check_memory(source, self.config, len(self.members), trace.scale)
        with trace.stage("preprocess"):
            source = merge_channels(source)
            scaling = compute_scaling(source)
        trace.warn(*source.warnings, *scaling.warnings)
        pacer = self._make_pacer(source, trace, later_stages)
        kernels = select_kernels(self.device, self.config.runtime.threads)
        bands = self._predict(source, scaling, trace, pacer)
        how = Labelling(self.config.masks, kernels, trace)
        return ImageWork(source, bands, how, pacer, is_rescaled=self.config.is_rescaled)

    def _choose_scale(self, source: ImageSource, trace: Trace) -> None:
        """Note the scale of the image, as far as it does not take the network to find it."""
        if self.config.is_rescaled:
            from mediar_infer.scales.choice import known_scale

            if choice := known_scale(source, self.config, self.cell_diameter):
                choice.note(trace)

    def _make_pacer(
        self, source: ImageSource, trace: Trace, later_stages: Sequence[str]
    ) -> Pacer | None:
        config = self.config
        if config.fit_budget is None:
            return None
        size = source.height, source.width
        deadline = Deadline(source.name, *size, config.fit_budget, config.outside_s)
        height, width = scaled_shape(size, trace.scale)
        is_narrow = can_pack(height, width, config.roi_size)
        plans = ladder_below(config.plan, len(self.members), can_pack=is_narrow)
        return Pacer(plans, self._costs, deadline, trace, later_stages=later_stages)

    def _predict(
        self, source: ImageSource, scaling: Scaling, trace: Trace, pacer: Pacer | None
    ) -> Bands:
        inputs = (source, scaling, self.members, self.config, trace)
        if self.config.is_rescaled:
            from mediar_infer.scales.prediction import predict_rescaled

            bands = predict_rescaled(*inputs, pacer, self.cell_diameter)
        elif pacer is not None:
            bands = predict_paced_bands(*inputs, pacer)
        else:
            bands = predict_bands(*inputs)
        return bands if self._pool is None else BandsAhead(bands, self._pool, trace)

    def segment(
        self,
        image: npt.NDArray[Any],
        channels: Sequence[int | str] = (),
        *,
        confidence: bool = False,
    ) -> Segmentation:
        """Segment an image that is in memory.

        Args:
            image: ``(H, W)`` or ``(H, W, C)``, any real dtype. Not modified.
            channels: numbers of one to three channels to segment, from 0, ``"-"`` for zeros,
                ``"0+2"`` for the maximum of two; by default the first three. What is not chosen
                plays no part in the normalisation.
            confidence: also measure how well the maps support each cell.

        Returns:
            Labels, flow, cell probability and timings.

        Raises:
            ShapeError: if the array is not an image.
        """
        check_choice(channels)
        return self.segment_source(ArraySource(image, channels=channels), confidence=confidence)

    def segment_source(self, source: ImageSource, *, confidence: bool = False) -> Segmentation:
        """Segment an image of which the maps fit in memory, such as a file from ``open_image``.

        Args:
            source: the image; it is left open.
            confidence: also measure how well the maps support each cell.

        Returns:
            Labels, flow, cell probability and timings.

        Raises:
            ImageReadError: if the file is damaged, the image has no finite value, or the result
                takes more memory than this process may still use.
        """
        check_result_memory(source)
        trace = Trace(source.warnings)
        with self.begin(source, trace) as work:
            bands = list(work.maps())
            measured = CellConfidence() if confidence else None
            labels = np.concatenate(list(work.labels(bands, confidence=measured)))
        maps = np.concatenate(bands, axis=1)
        del bands
        if maps.shape[1:] != labels.shape:
            maps = resize_whole(maps, *labels.shape)
        return Segmentation(
            labels=labels,
            flow=maps[[FLOW_Y, FLOW_X]],
            cellprob=to_probability(maps[CELLPROB]),
            timings=trace.stages_s,
            warnings=trace.warnings,
            budget=trace.budget,
            confidence=measured,
        )


def _mean_of_known(values: Sequence[float | None]) -> float | None:
    """What the weight files of an ensemble state, averaged over those that do."""
    known = [value for value in values if value is not None]
    return fmean(known) if known else None


def _list_digests(checkpoints: Sequence[Checkpoint], *, with_ranges: bool) -> dict[str, str]:
    """File → SHA-256 of weights and int8 ranges; with its folder where two have one name."""
    paths = [checkpoint.path for checkpoint in checkpoints]
    is_clear = len({path.name for path in paths}) == len(paths)
    names = [path.name if is_clear else str(path) for path in paths]
    digests = {name: c.digest for name, c in zip(names, checkpoints, strict=True)}
    if with_ranges:
        for name, path in zip(names, paths, strict=True):
            digests[str(ranges_path(Path(name)))] = compute_digest(ranges_path(path))
    return digests


def _check_not_forked() -> None:
    if watch_forks().is_forked:
        raise UsageError(
            "found a process that was forked from one with a Segmenter, expected one that starts"
            " afresh: the network's threads do not survive a fork; start workers by"
            " multiprocessing's 'spawn' or 'forkserver' context, and build a Segmenter in each"
        )


def _warn_of_many_threads(n_threads: int) -> None:
    n_cores = available_cores()
    if n_threads > n_cores:
        logger.warning(
            "found --threads %d, expected at most the %d cores that this process may use; more"
            " threads than cores are slower",
            n_threads,
            n_cores,
        )
