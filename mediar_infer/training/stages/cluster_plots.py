"""Pictures of clusters: a contact sheet of each, and all images in the plane."""

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import cv2
import numpy as np

from mediar_infer.labels.overlay import write_png
from mediar_infer.output_files import write_bytes
from mediar_infer.training.augmentation.contact_sheet import Rgb, draw_text, join_tiles
from mediar_infer.training.data.samples import Sample
from mediar_infer.training.stages.clustering import Clusters, Embeddings, project_embeddings

_THUMBNAIL: Final = 160
_CAPTION: Final = 18
_CHARACTERS: Final = 21
_COLUMNS: Final = 8
_MAX_SHOWN: Final = 40


def write_sheets(folder: Path, samples: Sequence[Sample], clusters: Clusters) -> list[Path]:
    """Write a contact sheet per cluster, ``cluster_00.png`` …; at most 40 images each.

    Args:
        folder: created if absent.
        samples: the images.
        clusters: clusters of the same images.

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
        write_png(path, sheet)
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
        clusters: clusters of the same images.
        modalities: modalities of the same images; empty where unknown.

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
        name = kind.encode(errors="replace").decode() or "unknown"
        right.scatter(*chosen.T, s=14, marker=marker, label=f"{name} ({len(chosen)})")
    right.set_title("modality")
    right.legend(fontsize=8)
    for axes in (left, right):
        axes.set_xlabel("first principal component")
    left.set_ylabel("second principal component")
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=120)
    write_bytes(path, buffer.getvalue())
