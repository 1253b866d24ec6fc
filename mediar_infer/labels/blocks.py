"""Which part of an image is labelled at once: all of it, blocks as released, or a moving band."""

from collections.abc import Iterator

import numpy as np

from mediar_infer.arrays import Float32Array, LabelArray
from mediar_infer.config import LARGE_IMAGE_BLOCK, LARGE_IMAGE_PIXELS, MaskConfig
from mediar_infer.labels.kernels import LabelKernels
from mediar_infer.labels.masks import compute_labels
from mediar_infer.labels.stitching import StitchedLabels
from mediar_infer.stopwatch import Stopwatch


def gather_rows(bands: Iterator[Float32Array], n_rows: int) -> Iterator[Float32Array]:
    """Join bands ``(3, rows, W)`` until there are ``n_rows`` rows, and pass exactly those on."""
    waiting: list[Float32Array] = []
    n_waiting = 0
    for band in bands:
        waiting.append(band)
        n_waiting += band.shape[1]
        while n_waiting >= n_rows:
            joined = np.concatenate(waiting, axis=1)
            yield joined[:, :n_rows]
            waiting, n_waiting = [joined[:, n_rows:].copy()], n_waiting - n_rows
    if n_waiting:
        yield np.concatenate(waiting, axis=1)


def _label_row_of_blocks(
    maps: Float32Array, size: int, first_id: int, config: MaskConfig, kernels: LabelKernels
) -> tuple[LabelArray, int]:
    """Label blocks side by side as the released system does; ids go on from ``first_id``."""
    rows, width = maps.shape[1:]
    labels = np.zeros((rows, width), dtype=np.int32)
    for left in range(0, width, size):
        inside = maps[:, :, left : left + size]
        block = np.zeros((3, size, size), dtype=np.float32)
        block[:, :rows, : inside.shape[2]] = inside
        found, _ = compute_labels(block, config, kernels)
        found = found[:rows, : inside.shape[2]]
        ids, consecutive = np.unique(found, return_inverse=True)
        # An id that lies in the padding alone leaves no gap; 0 stays 0 where there is background.
        consecutive = consecutive.reshape(found.shape) + (0 if ids[0] == 0 else 1)
        labels[:, left : left + size] = np.where(found > 0, consecutive + first_id, 0)
        first_id += int(np.count_nonzero(ids))
    return labels, first_id


def label_bands(
    bands: Iterator[Float32Array],
    height: int,
    width: int,
    config: MaskConfig,
    kernels: LabelKernels,
    stopwatch: Stopwatch,
) -> Iterator[LabelArray]:
    """Turn bands of maps into bands of labels.

    Args:
        bands: ``(3, rows, W)`` float32 arrays that cover the image from top to bottom.
        height: rows of the image.
        width: columns of the image.
        config: thresholds and the way large images are divided.
        kernels: what runs the loops over pixels.
        stopwatch: gains the stage ``labels``.

    Yields:
        ``(rows, W)`` int32 arrays that cover the image from top to bottom. Ids are unique in the
        whole image and, taken together, 1 … n.
    """
    large = height * width >= LARGE_IMAGE_PIXELS
    if config.blocks == "stitched" or (config.blocks == "auto" and large):
        stitched = StitchedLabels(height, width, config, kernels)
        for maps in bands:
            yield from stopwatch.each("labels", stitched.add(maps))
    elif config.blocks == "paper" and large:
        size, n_cells = config.block_size or LARGE_IMAGE_BLOCK, 0
        for maps in gather_rows(bands, size):
            with stopwatch("labels"):
                labels, n_cells = _label_row_of_blocks(maps, size, n_cells, config, kernels)
            yield labels
    else:
        maps = next(gather_rows(bands, height))
        with stopwatch("labels"):
            labels, _ = compute_labels(maps, config, kernels)
        yield labels
