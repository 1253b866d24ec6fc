"""Batches of augmented crops with their targets, prepared ahead of the training step.

Every random choice of a crop follows from the seed, the step and the crop's slot in the step: a
resumed run, and a run of several processes, train on the batches of an uninterrupted one.
"""

import contextlib
import multiprocessing
import signal
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from mediar_infer.arrays import LabelArray
from mediar_infer.errors import MediarError, UsageError
from mediar_infer.training.augmentation.crop_entries import IMAGE, LABEL
from mediar_infer.training.augmentation.settings import Augmentation
from mediar_infer.training.augmentation.targets import compute_targets
from mediar_infer.training.augmentation.transforms import build_transforms
from mediar_infer.training.data.samples import Sample

_N_PREFETCHED = 3
_N_PREFETCHED_PER_WORKER = 2
# Forked processes would inherit the locks of this one's threads and its GPU.
_START_METHOD = "forkserver"


@dataclass(frozen=True, slots=True)
class Batch:
    """Crops of one step, or of one process's part of it."""

    inputs: Tensor
    """``(N, 3, S, S)`` float32, about [0, 1]: noise and sharpening may exceed it."""
    foreground: Tensor
    """``(N, S, S)`` float32, 1 inside cells."""
    unit_flow: Tensor
    """``(N, 2, S, S)`` float32, (dy, dx)."""
    image_ids: tuple[str, ...]
    """Image of each crop."""
    has_labels: Tensor
    """``(N,)`` bool, false for images without labels: their targets do not count."""

    def select(self, crops: slice) -> "Batch":
        """Give some of the crops, without a copy."""
        return Batch(
            inputs=self.inputs[crops],
            foreground=self.foreground[crops],
            unit_flow=self.unit_flow[crops],
            image_ids=self.image_ids[crops],
            has_labels=self.has_labels[crops],
        )

    def to(self, device: torch.device) -> "Batch":
        """Copy the batch to a device; the inputs lie there with channels last."""
        return Batch(
            inputs=self.inputs.to(device, memory_format=torch.channels_last),
            foreground=self.foreground.to(device),
            unit_flow=self.unit_flow.to(device),
            image_ids=self.image_ids,
            has_labels=self.has_labels.to(device),
        )


@dataclass(frozen=True, slots=True)
class Draw:
    """One crop of a step."""

    index: int
    """Place of the image in the store."""
    excludes_boundary: bool
    """Turn the boundaries of its cells into background."""
    intensity: bool
    """Also change its intensities, not only its position, scale and orientation."""


@dataclass(frozen=True, slots=True)
class _Work:
    """The crops that one process makes for one step."""

    step: int
    first_slot: int
    draws: tuple[Draw, ...]


class CropMaker:
    """Makes crops out of images.

    Args:
        augmentation: probabilities and ranges.
        crop_size: side of a crop in pixels.
        seed: seed of all random choices.
    """

    def __init__(self, augmentation: Augmentation, *, crop_size: int, seed: int) -> None:
        self.seed = seed
        self._transforms = {
            (excludes_boundary, intensity): build_transforms(
                augmentation, crop_size, excludes_boundary=excludes_boundary, intensity=intensity
            )
            for excludes_boundary in (False, True)
            for intensity in (False, True)
        }

    def make(self, sample: Sample, draw: Draw, step: int, slot: int) -> tuple[Tensor, LabelArray]:
        """Make one crop; it depends on the seed, the step and the slot only.

        Args:
            sample: not modified.
            draw: how to change the crop; its index is ignored.
            step: number of the step.
            slot: number of the crop in the step, over all processes.

        Returns:
            ``(3, S, S)`` float32 image and ``(S, S)`` int32 labels.
        """
        change = self._transforms[draw.excludes_boundary, draw.intensity]
        sequence = np.random.SeedSequence((self.seed, step, slot))
        # MONAI draws from numpy's older interface.
        change.set_random_state(state=np.random.RandomState(np.random.MT19937(sequence)))
        image = np.moveaxis(sample.image, 2, 0)
        crop = change({IMAGE: image, LABEL: sample.labels[None]})
        labels: LabelArray = np.ascontiguousarray(crop[LABEL][0].numpy())
        return crop[IMAGE].contiguous(), labels


class _BatchMaker(Dataset[Batch | MediarError]):
    """Work → batch; an error of this package is returned, as torch would bury it in a traceback."""

    def __init__(self, store: Sequence[Sample], maker: CropMaker) -> None:
        self.store = store
        self.maker = maker

    def __getitem__(self, work: _Work) -> Batch | MediarError:
        try:
            return self.make(work)
        except MediarError as error:
            return error

    def make(self, work: _Work) -> Batch:
        """Make the crops and their targets."""
        samples = [self.store[draw.index] for draw in work.draws]
        crops = [
            self.maker.make(sample, draw, work.step, slot)
            for slot, (sample, draw) in enumerate(
                zip(samples, work.draws, strict=True), start=work.first_slot
            )
        ]
        targets = [compute_targets(labels) for _, labels in crops]
        return Batch(
            inputs=torch.stack([image for image, _ in crops]),
            foreground=torch.from_numpy(np.stack([target.foreground for target in targets])),
            unit_flow=torch.from_numpy(np.stack([target.unit_flow for target in targets])),
            image_ids=tuple(sample.record.image_id for sample in samples),
            has_labels=torch.tensor([sample.has_labels for sample in samples]),
        )


def iterate_batches(
    store: Sequence[Sample],
    draw_step: Callable[[int], Sequence[Draw]],
    augmentation: Augmentation,
    *,
    crop_size: int,
    seed: int,
    first_step: int,
    n_steps: int,
    rank: int = 0,
    world_size: int = 1,
    n_workers: int = 0,
) -> Iterator[Batch]:
    """Yield the batches of the steps ``first_step`` … ``first_step + n_steps - 1`` in order.

    They are prepared ahead by one thread or by worker processes. Each process opens images itself,
    so a caching store caches once per process; batches reach this process through shared memory (25
    bytes per pixel, two batches per worker: in a container, mind ``--shm-size``).

    Args:
        store: images with their labels; picklable where there are workers.
        draw_step: crops of a step, all processes together; called here, in order of the steps.
        augmentation: probabilities and ranges.
        crop_size: side of a crop in pixels.
        seed: seed of all random choices.
        first_step: number of the first step.
        n_steps: number of batches.
        rank: which part of each step's crops to make, 0 … ``world_size - 1``.
        world_size: number of equal parts that each step's crops are cut into, in order.
        n_workers: processes that make batches; with 0 a thread of this process does.

    Yields:
        One batch per step.

    Raises:
        UsageError: if the crops of a step cannot be cut into ``world_size`` equal parts.
        MediarError: whatever the store raises for an image.
    """
    maker = _BatchMaker(store, CropMaker(augmentation, crop_size=crop_size, seed=seed))
    steps = range(first_step, first_step + n_steps)
    works = (_take_part(step, draw_step(step), rank, world_size) for step in steps)
    results = _run_workers(maker, works, n_workers) if n_workers else _run_thread(maker, works)
    with contextlib.closing(results):
        for result in results:
            if isinstance(result, MediarError):
                raise result
            yield result


def _take_part(step: int, draws: Sequence[Draw], rank: int, world_size: int) -> _Work:
    n_each, n_left = divmod(len(draws), world_size)
    if n_left or not n_each:
        raise UsageError(
            f"step {step} has {len(draws)} crops for {world_size} processes, expected a multiple; "
            "change the batch size or the number of processes"
        )
    first = rank * n_each
    return _Work(step, first, tuple(draws[first : first + n_each]))


def _run_thread(
    maker: _BatchMaker, works: Iterable[_Work]
) -> Generator[Batch | MediarError, None, None]:
    waiting: deque[Future[Batch | MediarError]] = deque()
    with ThreadPoolExecutor(1, thread_name_prefix="batches") as pool:
        try:
            for work in works:
                waiting.append(pool.submit(maker.__getitem__, work))
                if len(waiting) > _N_PREFETCHED:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()


def _run_workers(
    maker: _BatchMaker, works: Iterable[_Work], n_workers: int
) -> Generator[Batch | MediarError, None, None]:
    context = multiprocessing.get_context(_START_METHOD)
    # Imported once instead of by every worker.
    context.set_forkserver_preload([__name__])
    yield from DataLoader(
        maker,
        batch_size=None,
        sampler=works,
        num_workers=n_workers,
        prefetch_factor=_N_PREFETCHED_PER_WORKER,
        worker_init_fn=_start_worker,
        multiprocessing_context=context,
        # The loader draws a number, which must not come from the training step's generator.
        generator=torch.Generator(),
    )


def _start_worker(_number: int) -> None:
    cv2.setNumThreads(1)
    # Ctrl-C reaches all processes; the one that trains finishes its step and then ends these.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
