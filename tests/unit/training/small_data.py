"""Tiny images and label files for the tests of the data table."""

import cv2
import numpy as np
import tifffile


def save_image(path, value=50, shape=(12, 16), dtype=np.uint8):
    """A dark image with one bright pixel that tells it from others."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = np.ones(shape, dtype)
    image[0, 0] = value
    if path.suffix.startswith(".tif"):
        tifffile.imwrite(path, image)
    else:
        cv2.imwrite(str(path), image)
    return path


def save_labels(path, n_cells=2, shape=(12, 16), dtype=np.uint16):
    """Cells of 2 × 2 pixels in a row."""
    path.parent.mkdir(parents=True, exist_ok=True)
    labels = np.zeros(shape, dtype)
    for i in range(n_cells):
        labels[2:4, 3 * i : 3 * i + 2] = i + 1
    tifffile.imwrite(path, labels)
    return path


def save_pair(folder, name, value=50, n_cells=2, **options):
    save_image(folder / f"{name}.png", value, **options)
    save_labels(folder / f"{name}_label.tiff", n_cells, **options)
