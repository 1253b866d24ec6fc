"""Modality discovery: images that look alike to a trained encoder fall into one cluster.

The paper embeds all target images with the phase-1 model and finds 40 clusters by k-means
(section 4.3); stages with amplified sampling then draw images of small clusters oftener.
"""

import csv
import io
import json
import logging
import math
import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import cv2
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from mediar_infer.arrays import Float32Array
from mediar_infer.devices import select_device
from mediar_infer.errors import UsageError
from mediar_infer.network.checkpoints import build_model, load_checkpoint
from mediar_infer.network.model import STRIDE
from mediar_infer.output_files import write_bytes
from mediar_infer.training.augmentation.contact_sheet import Rgb, draw_text, join_tiles
from mediar_infer.training.data.samples import Sample, SampleStore, Uint8Image
from mediar_infer.training.data.table import TrainingImage
from mediar_infer.training.networks.build import pool_features
from mediar_infer.training.stages.recipe import Recipe

logger = logging.getLogger(__name__)

N_CLUSTERS: Final = 40
"""As in the paper."""
WINDOW: Final = 512
"""Largest side of the windows that an image is embedded by, in pixels."""

_WINDOWS_PER_AXIS: Final = 3
_N_STARTS: Final = 10
_N_ITERATIONS: Final = 100
_THUMBNAIL: Final = 160
_CAPTION: Final = 18
_CHARACTERS: Final = 21
_COLUMNS: Final = 8
_MAX_SHOWN: Final = 40

Embeddings = Float32Array
"""``(n, D)`` float32, one row per image."""
Clusters = npt.NDArray[np.int64]
"""``(n,)`` int64, the cluster of each image; 0 is the largest."""


def compute_embeddings(
    network: nn.Module, samples: Sequence[Sample], device: torch.device | str = "cpu"
) -> Embeddings:
    """Embed images: the encoder's four feature maps, averaged over each image.

    An image is seen at its own scale, in at most nine windows of at most ``WINDOW`` pixels that are
    spread evenly over it; padding does not count.

    Args:
        network: a MEDIAR-Former; put into evaluation mode and moved to the device.
        samples: the images.
        device: where the network runs.

    Returns:
        ``(n, D)`` float32, in the order of the images.

    Raises:
        UsageError: if there is no image, or the network has no encoder of its own.
        ImageReadError: if an image cannot be read.
    """
    if not len(samples):
        raise UsageError("found no image to embed, expected some; look at role and split")
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
    """Windows ``(n, 3, h, w)`` in [0, 1] and ``(n, 1, h, w)``, 1 on the image and 0 beside it."""
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


def find_clusters(embeddings: Embeddings, n_clusters: int = N_CLUSTERS, seed: int = 0) -> Clusters:
    """Find clusters by k-means, the best of ten starts; the result follows from the seed.

    Every dimension is brought to unit variance first: a few loud channels would decide alone.

    Args:
        embeddings: ``(n, D)``. Not modified.
        n_clusters: wanted number; there are fewer if fewer images differ from each other.
        seed: of the starts (k-means++).

    Returns:
        ``(n,)`` the cluster of each image, numbered by falling size.

    Raises:
        UsageError: if less than one cluster is asked for.
    """
    if n_clusters < 1:
        raise UsageError(f"found {n_clusters} clusters, expected 1 or more")
    points = _standardise(embeddings)
    n_different = len(np.unique(points, axis=0))
    if n_different < n_clusters:
        logger.warning("%d clusters for %d different images", n_clusters, n_different)
    rng = np.random.default_rng(seed)
    tries = [_run_kmeans(points, min(n_clusters, n_different), rng) for _ in range(_N_STARTS)]
    _, clusters = min(tries, key=lambda each: each[0])
    # By size, then by the first image: independent of the order in which k-means found them.
    ids, firsts, counts = np.unique(clusters, return_index=True, return_counts=True)
    order = np.lexsort((firsts, -counts))
    renumbered = np.empty(int(ids.max()) + 1, np.int64)
    renumbered[ids[order]] = np.arange(len(ids))
    found: Clusters = renumbered[clusters]
    return found


def _standardise(embeddings: Embeddings) -> npt.NDArray[np.float64]:
    points = embeddings.astype(np.float64)
    points -= points.mean(0)
    deviations = points.std(0)
    # A dimension that is constant but for rounding tells nothing.
    is_alive = deviations > 1e-6 * max(float(np.abs(embeddings).max()), 1e-30)
    standardised: npt.NDArray[np.float64] = points[:, is_alive] / deviations[is_alive]
    return standardised if is_alive.any() else np.zeros((len(points), 1))


def _run_kmeans(
    points: npt.NDArray[np.float64], n_clusters: int, rng: np.random.Generator
) -> tuple[float, Clusters]:
    """One start of k-means: sum of squared distances, and the clusters."""
    from scipy.cluster.vq import kmeans2

    with warnings.catch_warnings():
        # A centre may lose its last point; there is one cluster less then.
        warnings.filterwarnings("ignore", message="One of the clusters is empty")
        centres, clusters = kmeans2(points, n_clusters, iter=_N_ITERATIONS, minit="++", rng=rng)
    return float(((points - centres[clusters]) ** 2).sum()), clusters.astype(np.int64)


def project_embeddings(embeddings: Embeddings) -> npt.NDArray[np.float64]:
    """Project embeddings to the plane of their two principal components.

    Args:
        embeddings: ``(n, D)``. Not modified.

    Returns:
        ``(n, 2)``; zeros where there is no second direction.
    """
    points = _standardise(embeddings)
    left, values, _ = np.linalg.svd(points, full_matrices=False)
    plane = np.zeros((len(points), 2))
    n_axes = min(2, len(values))
    plane[:, :n_axes] = left[:, :n_axes] * values[:n_axes]
    # The sign of a principal component is arbitrary: its largest value is made positive.
    extremes = plane[np.abs(plane).argmax(0), [0, 1]]
    return plane * np.where(extremes < 0, -1, 1)


@dataclass(frozen=True, slots=True)
class Purity:
    """How well clusters agree with the modalities that are known."""

    n_images: int
    """Images whose modality is known."""
    n_modalities: int
    """Different modalities among them."""
    purity: float
    """Share of these images that belong to the most frequent modality of their cluster."""
    chance: float
    """The same with one cluster of all: share of the most frequent modality."""
    mutual_information: float
    """Mutual information of cluster and modality over the mean of their entropies, 0 to 1."""


def compute_purity(clusters: Clusters, modalities: Sequence[str]) -> Purity | None:
    """Compare clusters with known modalities; None if no modality is known.

    Args:
        clusters: ``(n,)``.
        modalities: of the same images; empty where unknown.
    """
    pairs = [(int(c), m) for c, m in zip(clusters, modalities, strict=True) if m]
    if not pairs:
        return None
    joint = Counter(pairs)
    sizes, kinds = Counter(c for c, _ in pairs), Counter(m for _, m in pairs)
    best: dict[int, int] = {}
    for (cluster, _), count in joint.items():
        best[cluster] = max(best.get(cluster, 0), count)
    n = len(pairs)
    entropies = _entropy(sizes, n) + _entropy(kinds, n)
    information = entropies - _entropy(joint, n)
    return Purity(
        n_images=n,
        n_modalities=len(kinds),
        purity=sum(best.values()) / n,
        chance=max(kinds.values()) / n,
        mutual_information=2 * information / entropies if entropies > 0 else 1.0,
    )


def _entropy(counts: Mapping[Any, int], n: int) -> float:
    return -sum(count / n * math.log(count / n) for count in counts.values())


def write_clusters(path: Path, records: Sequence[TrainingImage], clusters: Clusters) -> None:
    """Write a cluster table: CSV with the columns ``image_id`` and ``cluster``.

    Raises:
        OutputError: if it cannot be written.
    """
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("image_id", "cluster"))
    writer.writerows(
        (record.image_id, int(cluster)) for record, cluster in zip(records, clusters, strict=True)
    )
    write_bytes(path, text.getvalue().encode("utf-8"))


def write_sheets(folder: Path, samples: Sequence[Sample], clusters: Clusters) -> list[Path]:
    """Write a contact sheet per cluster, ``cluster_00.png`` …; at most 40 images each.

    Args:
        folder: made if absent.
        samples: the images.
        clusters: of the same images.

    Returns:
        The files.

    Raises:
        OutputError: if one cannot be written.
    """
    paths = []
    for cluster in np.unique(clusters).tolist():
        indices = np.flatnonzero(clusters == cluster)
        # Spread over the cluster: neighbours in the table are often frames of one film.
        shown = indices[np.linspace(0, len(indices) - 1, min(len(indices), _MAX_SHOWN)).astype(int)]
        path = folder / f"cluster_{cluster:02d}.png"
        sheet = draw_sheet([samples[i] for i in shown], f"cluster {cluster}: {len(indices)} images")
        _, encoded = cv2.imencode(".png", sheet[..., ::-1])
        write_bytes(path, encoded.tobytes())
        paths.append(path)
    return paths


def draw_sheet(samples: Sequence[Sample], title: str) -> Rgb:
    """Draw small pictures of images with their ids and modalities.

    Args:
        samples: at least one. Not modified.
        title: first line.

    Returns:
        ``(H, W, 3)`` RGB.
    """
    tiles = [_draw_thumbnail(sample) for sample in samples]
    blank = np.zeros_like(tiles[0])
    n_columns = min(_COLUMNS, max(len(tiles), 2))
    tiles += [blank] * (-len(tiles) % n_columns)
    rows = [tiles[i : i + n_columns] for i in range(0, len(tiles), n_columns)]
    body = join_tiles(rows)
    return np.vstack([draw_text((title,), _CAPTION, body.shape[1]), body])


def _draw_thumbnail(sample: Sample) -> Rgb:
    height, width = sample.image.shape[:2]
    scale = _THUMBNAIL / max(height, width)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    method = cv2.INTER_AREA if scale < 1 else cv2.INTER_NEAREST
    small = cv2.resize(sample.image, size, interpolation=method)
    tile = np.zeros((_THUMBNAIL, _THUMBNAIL, 3), np.uint8)
    tile[: size[1], : size[0]] = small
    record = sample.record
    lines = (record.image_id[-_CHARACTERS:], record.modality[:_CHARACTERS])
    return np.vstack([tile, draw_text(lines, 2 * _CAPTION, _THUMBNAIL)])


def write_projection(
    path: Path, embeddings: Embeddings, clusters: Clusters, modalities: Sequence[str]
) -> None:
    """Write a plot of the embeddings in the plane, coloured by cluster and by modality.

    Args:
        path: PNG file.
        embeddings: ``(n, D)``.
        clusters: of the same images.
        modalities: of the same images; empty where unknown.

    Raises:
        OutputError: if it cannot be written.
    """
    from matplotlib.figure import Figure

    plane = project_embeddings(embeddings)
    figure = Figure(figsize=(15, 6.5), layout="constrained")
    left, right = figure.subplots(1, 2, sharex=True, sharey=True)
    left.scatter(*plane.T, c=clusters, cmap="turbo", s=14)
    for cluster in np.unique(clusters).tolist():
        centre = np.median(plane[clusters == cluster], axis=0)
        left.annotate(str(cluster), centre, fontsize=7)
    left.set_title(f"{len(np.unique(clusters))} clusters")
    kinds = sorted(set(modalities))
    for number, kind in enumerate(kinds):
        chosen = plane[[modality == kind for modality in modalities]]
        marker = "osv^DP*X"[number % 8]
        right.scatter(*chosen.T, s=14, marker=marker, label=f"{kind or 'unknown'} ({len(chosen)})")
    right.set_title("modality")
    right.legend(fontsize=8)
    for axes in (left, right):
        axes.set_xlabel("first principal component")
    left.set_ylabel("second principal component")
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=120)
    write_bytes(path, buffer.getvalue())


def discover(
    weights: Path,
    records: Sequence[TrainingImage],
    folder: Path,
    *,
    n_clusters: int = N_CLUSTERS,
    seed: int = 0,
    device: str = "auto",
) -> dict[str, int]:
    """Find the clusters of images and write everything there is to see of them.

    Writes ``clusters.csv`` (last), ``cluster_NN.png``, ``projection.png`` and ``discovery.json``.

    Args:
        weights: of a MEDIAR-Former, the paper's phase-1 model.
        records: the images.
        folder: made if absent; sheets of an earlier discovery are removed.
        n_clusters: wanted number of clusters.
        seed: of k-means.
        device: as for inference.

    Returns:
        Image → cluster.

    Raises:
        UsageError: if there is no image, or the device is not there.
        CheckpointError: if the weights are no MEDIAR-Former.
        ImageReadError: if an image cannot be read.
        OutputError: if a file cannot be written.
    """
    checkpoint = load_checkpoint(weights)
    samples = SampleStore(records)
    modalities = [record.modality for record in records]
    embeddings = compute_embeddings(build_model(checkpoint), samples, select_device(device))
    clusters = find_clusters(embeddings, n_clusters, seed)
    n_found = len(np.unique(clusters))
    purity = compute_purity(clusters, modalities)
    logger.info("%d images in %d clusters", len(records), n_found)
    if purity is not None:
        logger.info(
            "purity against %d modalities: %.3f (one cluster: %.3f)",
            *(purity.n_modalities, purity.purity, purity.chance),
        )
    for path in folder.glob("cluster_*.png"):
        path.unlink()
    write_sheets(folder, samples, clusters)
    write_projection(folder / "projection.png", embeddings, clusters, modalities)
    content = {
        "weights": str(weights),
        "digest": checkpoint.digest,
        "n_images": len(records),
        "n_clusters": n_found,
        "asked_clusters": n_clusters,
        "seed": seed,
        "sizes": np.bincount(clusters).tolist(),
        "modalities": asdict(purity) if purity else None,
    }
    write_bytes(folder / "discovery.json", json.dumps(content, indent=2).encode() + b"\n")
    write_clusters(folder / "clusters.csv", records, clusters)
    return {
        record.image_id: int(cluster) for record, cluster in zip(records, clusters, strict=True)
    }


def prepare_clusters(
    weights: Path,
    records: Sequence[TrainingImage],
    recipe: Recipe,
    folder: Path,
    device: str = "auto",
) -> dict[str, int]:
    """Find clusters for a stage of a recipe; see :func:`discover`."""
    n_clusters = recipe.discovery.n_clusters
    return discover(
        weights, records, folder, n_clusters=n_clusters, seed=recipe.seed, device=device
    )
