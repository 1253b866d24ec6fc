"""Modality discovery: images that look alike to a trained encoder fall into one cluster.

The paper embeds all target images with the phase-1 model and finds 40 clusters by k-means
(section 4.3); stages with amplified sampling then draw images of small clusters more often.
"""

import json
import logging
import math
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Final

import numpy as np
import torch
from torch import Tensor, nn

from mediar_infer.devices import select_device
from mediar_infer.errors import MediarError, UsageError
from mediar_infer.network.checkpoints import build_model, load_checkpoint
from mediar_infer.network.model import STRIDE
from mediar_infer.network.weight_files import compute_digest
from mediar_infer.output_files import remove_result
from mediar_infer.training.data.csv_files import write_rows
from mediar_infer.training.data.samples import Sample, SampleStore, Uint8Image
from mediar_infer.training.data.table import TrainingImage
from mediar_infer.training.networks.build import pool_features
from mediar_infer.training.stages.cluster_plots import write_projection, write_sheets
from mediar_infer.training.stages.clustering import (
    Clusters,
    Embeddings,
    Purity,
    compute_purity,
    find_clusters,
)
from mediar_infer.training.stages.run_folder import write_json
from mediar_infer.training.stages.sampling import read_clusters

logger = logging.getLogger(__name__)

CLUSTERS_NAME: Final = "clusters.csv"
"""Name of the cluster table in the folder of a discovery."""
WINDOW: Final = 512
"""Largest side of the windows in which an image is embedded, in pixels."""

_DESCRIPTION_NAME: Final = "discovery.json"
_WINDOWS_PER_AXIS: Final = 3


def compute_embeddings(
    network: nn.Module, samples: Sequence[Sample], device: torch.device | str = "cpu"
) -> Embeddings:
    """Embed images: the encoder's four feature maps, averaged over each image.

    An image keeps its scale and is covered by at most nine windows of at most ``WINDOW`` pixels,
    spread evenly; padding does not count.

    Args:
        network: a MEDIAR-Former; put into evaluation mode and moved to the device.
        samples: the images.
        device: where the network runs.

    Returns:
        ``(n, D)`` float32, in the order of the images.

    Raises:
        UsageError: if there is no image, or the network has no MEDIAR-Former encoder.
        ImageReadError: if an image cannot be read.
    """
    if not len(samples):
        raise UsageError("found no image to embed, expected at least one; check role and split")
    network = network.eval().to(device)
    rows = []
    for number, sample in enumerate(samples, start=1):
        inputs, weights = _cut_windows(sample.image)
        with torch.inference_mode():
            pooled = [
                pool_features(network, window[None].to(device), weight[None].to(device))[0]
                for window, weight in zip(inputs, weights, strict=True)
            ]
        rows.append(torch.stack(pooled).mean(0).cpu().numpy())
        if number % 100 == 0:
            logger.info("embedded %d of %d images", number, len(samples))
    return np.stack(rows)


def _cut_windows(image: Uint8Image) -> tuple[Tensor, Tensor]:
    """Windows ``(n, 3, h, w)`` in [0, 1], weights ``(n, 1, h, w)``: 0 in the padding, else 1."""
    windows = [
        image[top : top + WINDOW, left : left + WINDOW]
        for top in _spread(image.shape[0])
        for left in _spread(image.shape[1])
    ]
    height, width = windows[0].shape[:2]
    padding = ((0, -height % STRIDE), (0, -width % STRIDE))
    inputs = np.stack([np.pad(window, (*padding, (0, 0))) for window in windows])
    weights = np.pad(
        np.ones((len(windows), 1, height, width), np.float32), ((0, 0), (0, 0), *padding)
    )
    return torch.from_numpy(inputs).permute(0, 3, 1, 2).float() / 255, torch.from_numpy(weights)


def _spread(length: int) -> list[int]:
    """Starts of evenly spread windows along an axis."""
    number = min(math.ceil(length / WINDOW), _WINDOWS_PER_AXIS)
    return [int(start) for start in np.linspace(0, max(length - WINDOW, 0), number).round()]


def write_clusters(path: Path, records: Sequence[TrainingImage], clusters: Clusters) -> None:
    """Write a cluster table: CSV with the columns ``image_id`` and ``cluster``.

    Raises:
        OutputError: if it cannot be written.
    """
    rows = [
        (record.image_id, int(cluster)) for record, cluster in zip(records, clusters, strict=True)
    ]
    write_rows(path, ("image_id", "cluster"), rows)


def find_earlier(
    weights: Path, records: Sequence[TrainingImage], folder: Path, *, n_clusters: int, seed: int
) -> dict[str, int] | None:
    """Read the clusters that an earlier :func:`discover` found with the same arguments.

    Returns:
        Image → cluster; None if there are none, or if they are of other weights, images or numbers.

    Raises:
        CheckpointError: if the weights cannot be read.
    """
    try:
        found = json.loads((folder / _DESCRIPTION_NAME).read_text(encoding="utf-8"))
        clusters = read_clusters(folder / CLUSTERS_NAME)
    except (OSError, ValueError, MediarError):
        return None
    asked = {
        "digest": compute_digest(weights),
        "images": _list_digests(records),
        "asked_clusters": n_clusters,
        "seed": seed,
    }
    is_same = all(found.get(key) == value for key, value in asked.items())
    return clusters if is_same and clusters.keys() == {r.image_id for r in records} else None


def _list_digests(records: Sequence[TrainingImage]) -> dict[str, str]:
    return {record.image_id: record.digest for record in records}


def discover(
    weights: Path,
    records: Sequence[TrainingImage],
    folder: Path,
    *,
    n_clusters: int,
    seed: int,
    device: str = "auto",
) -> dict[str, int]:
    """Cluster images and write the clusters, their contact sheets and a projection.

    Writes ``clusters.csv`` (last), ``cluster_NN.png``, ``projection.png`` and ``discovery.json``.

    Args:
        weights: weight file of a MEDIAR-Former; the paper uses its phase-1 model.
        records: the images.
        folder: created if absent; sheets of an earlier discovery are removed.
        n_clusters: number of clusters wanted.
        seed: seed of k-means.
        device: as for inference.

    Returns:
        Image → cluster.

    Raises:
        UsageError: if there is no image, or the device does not exist.
        CheckpointError: if the weights are not those of a MEDIAR-Former.
        ImageReadError: if an image cannot be read.
        OutputError: if a file cannot be written, or a sheet not be removed.
    """
    checkpoint = load_checkpoint(weights)
    samples = SampleStore(records)
    modalities = [record.modality for record in records]
    embeddings = compute_embeddings(
        build_model(checkpoint), samples, select_device(device).to_torch()
    )
    clusters = find_clusters(embeddings, n_clusters, seed)
    n_found = len(np.unique(clusters))
    purity = compute_purity(clusters, modalities)
    _log_clusters(len(records), n_found, purity)
    _remove_sheets(folder)
    write_sheets(folder, samples, clusters)
    write_projection(folder / "projection.png", embeddings, clusters, modalities)
    description = {
        "weights": str(weights),
        "digest": checkpoint.digest,
        "n_images": len(records),
        "images": _list_digests(records),
        "n_clusters": n_found,
        "asked_clusters": n_clusters,
        "seed": seed,
        "sizes": np.bincount(clusters).tolist(),
        "modalities": asdict(purity) if purity else None,
    }
    write_json(folder / _DESCRIPTION_NAME, description)
    write_clusters(folder / CLUSTERS_NAME, records, clusters)
    return {
        record.image_id: int(cluster) for record, cluster in zip(records, clusters, strict=True)
    }


def _log_clusters(n_images: int, n_clusters: int, purity: Purity | None) -> None:
    logger.info("%d images in %d clusters", n_images, n_clusters)
    if purity is not None:
        logger.info(
            "purity for %d known modalities: %.3f (%.3f with a single cluster)",
            *(purity.n_modalities, purity.purity, purity.chance),
        )


def _remove_sheets(folder: Path) -> None:
    """Remove the sheets of an earlier discovery, which may have found more clusters."""
    for path in folder.glob("cluster_*.png"):
        remove_result(path)
