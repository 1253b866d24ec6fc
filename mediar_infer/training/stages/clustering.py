"""Clusters of embedded images by k-means, and how well they agree with known modalities."""

import logging
import math
import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from mediar_infer.arrays import Float32Array
from mediar_infer.errors import UsageError

logger = logging.getLogger(__name__)

_N_STARTS: Final = 10
_N_ITERATIONS: Final = 100

Embeddings = Float32Array
"""``(n, D)`` float32, one row per image."""
Clusters = npt.NDArray[np.int64]
"""``(n,)`` int64, the cluster of each image; 0 is the largest."""


def find_clusters(embeddings: Embeddings, n_clusters: int, seed: int = 0) -> Clusters:
    """Find clusters by k-means, the best of ten starts; the result follows from the seed.

    Every dimension is first scaled to unit variance; otherwise a few strong channels would decide.

    Args:
        embeddings: ``(n, D)``. Not modified.
        n_clusters: number wanted; there are fewer if fewer images differ from each other.
        seed: seed of the starts (k-means++).

    Returns:
        ``(n,)`` the cluster of each image, numbered by decreasing size.

    Raises:
        UsageError: if fewer than one cluster is asked for.
    """
    if n_clusters < 1:
        raise UsageError(f"found {n_clusters} clusters, expected 1 or more")
    points = _standardise(embeddings)
    n_different = len(np.unique(points, axis=0))
    if n_different < n_clusters:
        logger.warning(
            "%d clusters are asked for, but only %d images differ", n_clusters, n_different
        )
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
    """Give every dimension mean 0 and variance 1: ``(n, d)`` without those that are constant."""
    points = embeddings.astype(np.float64)
    points -= points.mean(0)
    deviations = points.std(0)
    # A dimension that is constant up to rounding carries no information.
    is_alive = deviations > 1e-6 * max(float(np.abs(embeddings).max()), 1e-30)
    standardised: npt.NDArray[np.float64] = points[:, is_alive] / deviations[is_alive]
    return standardised if is_alive.any() else np.zeros((len(points), 1))


def _run_kmeans(
    points: npt.NDArray[np.float64], n_clusters: int, rng: np.random.Generator
) -> tuple[float, Clusters]:
    """One start of k-means: sum of squared distances, and the clusters."""
    from scipy.cluster.vq import kmeans2

    with warnings.catch_warnings():
        # A centre may lose its last point, which leaves one cluster fewer.
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
    """The same for a single cluster of all images: share of the most frequent modality."""
    mutual_information: float
    """Normalised: mutual information of cluster and modality over the mean of their entropies, 0
    to 1, as ``normalized_mutual_info_score`` of scikit-learn."""


def compute_purity(clusters: Clusters, modalities: Sequence[str]) -> Purity | None:
    """Compare clusters with known modalities; None if no modality is known.

    Args:
        clusters: ``(n,)``.
        modalities: modalities of the same images; empty where unknown.
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
