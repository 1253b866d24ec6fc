"""Which part of an image is labelled at once: all of it, blocks as released, or a moving band."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Final

import numpy as np

from mediar_infer.arrays import CELLPROB, Float32Array, LabelArray
from mediar_infer.config import LARGE_IMAGE_BLOCK, LARGE_IMAGE_PIXELS, MaskConfig
from mediar_infer.image_trace import Trace
from mediar_infer.labels.confidence import CellConfidence
from mediar_infer.labels.flows import FlowCheck
from mediar_infer.labels.holes import fill_holes
from mediar_infer.labels.kernels import LabelKernels
from mediar_infer.labels.masks import compute_labels
from mediar_infer.labels.stitching import StitchedLabels
from mediar_infer.row_buffer import RowBuffer

_LOGIT_OF_PADDING: Final = -np.inf
"""Blocks are padded with cell probability 0, which is below every threshold, as released."""


@dataclass(frozen=True, slots=True, eq=False)
class Labelling:
    """How the labels of one image are made, and what takes note of it."""

    config: MaskConfig
    """Thresholds, and how large images are divided."""
    kernels: LabelKernels
    """What runs the loops over pixels."""
    trace: Trace
    """Gains the stage ``labels``."""
    flow_check: FlowCheck = field(default_factory=FlowCheck)
    """Gains the cells that the flow check examined and removed."""
    confidence: CellConfidence | None = None
    """Gains the confidence of every cell; without it nothing is computed for one."""


def gather_rows(bands: Iterable[Float32Array], n_rows: int) -> Iterator[Float32Array]:
    """Join bands ``(3, rows, W)`` into bands of ``n_rows`` rows; the last may have fewer."""
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
    maps: Float32Array, size: int, first_id: int, how: Labelling
) -> tuple[LabelArray, int]:
    """Label blocks side by side as the released system does; ids continue after ``first_id``."""
    rows, width = maps.shape[1:]
    labels = np.zeros((rows, width), dtype=np.int32)
    for left in range(0, width, size):
        inside = maps[:, :, left : left + size]
        block = np.zeros((3, size, size), dtype=np.float32)
        block[CELLPROB] = _LOGIT_OF_PADDING
        block[:, :rows, : inside.shape[2]] = inside
        of_block = None if how.confidence is None else CellConfidence()
        padded, _ = compute_labels(block, how.config, how.kernels, how.flow_check, of_block)
        block_labels = padded[:rows, : inside.shape[2]]
        ids, consecutive = np.unique(block_labels, return_inverse=True)
        # An id that lies only in the padding leaves no gap; 0 stays 0 where there is background.
        consecutive = consecutive.reshape(block_labels.shape) + (0 if ids[0] == 0 else 1)
        labels[:, left : left + size] = np.where(block_labels > 0, consecutive + first_id, 0)
        first_id += int(np.count_nonzero(ids))
        if how.confidence is not None and of_block is not None:
            how.confidence.add_flow_errors(of_block.flow_error[ids[ids > 0] - 1])
    return labels, first_id


def is_stitched(height: int, width: int, config: MaskConfig) -> bool:
    """Whether an image is labelled by a moving band of rows, so that it is never held whole."""
    is_large = height * width >= LARGE_IMAGE_PIXELS
    return config.blocks == "stitched" or (config.blocks == "auto" and is_large)


def _is_in_blocks(height: int, width: int, config: MaskConfig) -> bool:
    return config.blocks == "paper" and height * width >= LARGE_IMAGE_PIXELS


def _side_of_block(config: MaskConfig) -> int:
    return config.block_size or LARGE_IMAGE_BLOCK


def pixels_at_once(height: int, width: int, config: MaskConfig) -> int:
    """Pixels that are held to be labelled, unless the image is stitched."""
    if not _is_in_blocks(height, width, config):
        return height * width
    # A block is square, even if the image is narrower.
    return _side_of_block(config) * max(_side_of_block(config), width)


def label_bands(
    bands: Iterable[Float32Array], shape: tuple[int, int], how: Labelling
) -> Iterator[LabelArray]:
    """Turn bands of maps into bands of labels.

    Args:
        bands: ``(3, rows, W)`` float32 arrays that cover the image from top to bottom.
        shape: height and width of the image.
        how: settings, and what takes note; the confidence of a cell is known once its last row
            has been returned.

    Returns:
        An iterator over ``(rows, W)`` int32 arrays that cover the image from top to bottom. Ids are
        unique in the whole image and, taken together, 1 … n.
    """
    height, width = shape
    logits = RowBuffer((width,), np.float32)
    if how.confidence is not None:
        bands = _keep_logits(bands, logits)
    labels = _find_cells(bands, shape, how)
    if how.config.fill_holes:
        labels = fill_holes(labels, height, how.trace)
    if how.confidence is not None:
        labels = _measure(labels, logits, how.confidence, how.trace)
    return labels


def _keep_logits(bands: Iterable[Float32Array], logits: RowBuffer) -> Iterator[Float32Array]:
    for maps in bands:
        logits.append(maps[CELLPROB])
        yield maps


def _measure(
    bands: Iterable[LabelArray], logits: RowBuffer, confidence: CellConfidence, trace: Trace
) -> Iterator[LabelArray]:
    """Add the pixels of final labels to the confidence of their cells."""
    for labels in bands:
        with trace.stage("labels"):
            bottom = logits.top + len(labels)
            confidence.add_pixels(labels, logits.rows(logits.top, bottom))
            logits.drop_above(bottom)
        yield labels


def _find_cells(
    bands: Iterable[Float32Array], shape: tuple[int, int], how: Labelling
) -> Iterator[LabelArray]:
    """Label the image whole, in blocks or as a moving band; see :func:`label_bands`."""
    (height, width), config, trace = shape, how.config, how.trace
    means = config, how.kernels, how.flow_check, how.confidence
    if is_stitched(height, width, config):
        stitched = StitchedLabels(height, width, *means)
        for maps in bands:
            yield from trace.time_items("labels", stitched.add(maps))
    elif _is_in_blocks(height, width, config):
        size, n_cells = _side_of_block(config), 0
        for maps in gather_rows(bands, size):
            with trace.stage("labels"):
                labels, n_cells = _label_row_of_blocks(maps, size, n_cells, how)
            yield labels
    else:
        whole, n_rows = np.empty((3, height, width), dtype=np.float32), 0
        for maps in bands:
            whole[:, n_rows : n_rows + maps.shape[1]] = maps
            n_rows += maps.shape[1]
        with trace.stage("labels"):
            labels, _ = compute_labels(whole, *means)
        yield labels
