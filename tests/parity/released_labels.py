"""Dense maps → labels, step by step as the released system is described: slow, plain, independent.

It shares no line with the package and serves as the oracle of its label stage. Everything is
float64, on whole-image arrays, with one loop turn per seed and per cell. (y, x) order throughout.
"""

import numpy as np
from scipy import ndimage

FLOW_SCALE = 5.0
N_STEPS = 200
HISTOGRAM_MARGIN = 20


def clean(foreground, min_size=16):
    """Fill holes, then drop objects, that have fewer pixels; both 4-connected."""
    holes, n_holes = ndimage.label(~foreground)
    filled = foreground.copy()
    for hole in range(1, n_holes + 1):
        if (holes == hole).sum() < min_size:
            filled[holes == hole] = True
    objects, n_objects = ndimage.label(filled)
    for each in range(1, n_objects + 1):
        if (objects == each).sum() < min_size:
            filled[objects == each] = False
    return filled


def sample(field, y, x):
    """Bilinear value of ``(H, W)`` at pixel coordinates, zero outside."""
    height, width = field.shape
    top, left = np.floor(y).astype(int), np.floor(x).astype(int)
    value = np.zeros(len(y))
    for dy in (0, 1):
        for dx in (0, 1):
            row, column = top + dy, left + dx
            inside = (row >= 0) & (row < height) & (column >= 0) & (column < width)
            weight = (1 - abs(y - row)) * (1 - abs(x - column))
            value[inside] += (weight * field[row.clip(0, height - 1), column.clip(0, width - 1)])[
                inside
            ]
    return value


def follow(field, y, x, n_steps=N_STEPS):
    """Euler steps from float coordinates; positions stay in the image.

    A coordinate goes to [-1, 1] by ``size - 1`` and is read back as if -1 and 1 were the outer
    edges of the outer pixels. An axis of one pixel has no ``size - 1``; 1 stands in for it.
    """
    height, width = field.shape[1:]
    for _ in range(n_steps):
        normalised_y, normalised_x = 2 * y / max(height - 1, 1) - 1, 2 * x / max(width - 1, 1) - 1
        read_y, read_x = ((normalised_y + 1) * height - 1) / 2, ((normalised_x + 1) * width - 1) / 2
        speed_y, speed_x = sample(field[0], read_y, read_x), sample(field[1], read_y, read_x)
        y, x = (y + speed_y).clip(0, height - 1), (x + speed_x).clip(0, width - 1)
    return y, x


def grow_seed(histogram, seed):
    """The bins of one seed after five rounds."""
    grown = {tuple(seed)}
    for _ in range(5):
        around = {(y + dy, x + dx) for y, x in grown for dy in (-1, 0, 1) for dx in (-1, 0, 1)}
        grown = {
            (y, x)
            for y, x in around
            if 0 <= y < histogram.shape[0] and 0 <= x < histogram.shape[1] and histogram[y, x] > 2
        }
    return grown


def labels_of_end_points(end_y, end_x):
    """Labels before the two rejection rules.

    Args:
        end_y: ``(H, W)`` int, row in which each pixel ends (its own for background pixels).
        end_x: ``(H, W)`` int, the same for columns.
    """
    height, width = end_y.shape
    margin = HISTOGRAM_MARGIN
    histogram = np.zeros((height + 2 * margin, width + 2 * margin), dtype=int)
    np.add.at(histogram, (end_y.ravel() + margin, end_x.ravel() + margin), 1)
    highest = ndimage.maximum_filter(histogram, size=5, mode="constant", cval=0)
    seeds = np.argwhere((histogram == highest) & (histogram > 10))
    label_of_bin = np.zeros_like(histogram)
    for number, seed in enumerate(seeds, start=1):
        for y, x in grow_seed(histogram, seed):
            label_of_bin[y, x] = number
    return label_of_bin[end_y + margin, end_x + margin]


def consecutive(labels):
    ids = np.unique(labels)
    return np.searchsorted(ids[ids > 0], labels, side="left") * (labels > 0) + (labels > 0)


def drop_giants(labels, max_fraction=0.9):
    labels = labels.copy()
    for each in np.unique(labels[labels > 0]):
        if (labels == each).sum() > max_fraction * labels.size:
            labels[labels == each] = 0
    return consecutive(labels)


def unit_flow(labels):
    """Ideal flow of labelled cells, ``(2, H, W)`` float64, ids 1 … n without gaps."""
    height, width = labels.shape
    padded = np.pad(labels, 1)
    temperature = np.zeros(padded.shape)
    boxes = ndimage.find_objects(labels)
    centres, n_iterations = [], 0
    for each, (rows, columns) in enumerate(boxes, start=1):
        y, x = np.nonzero(labels == each)
        nearest = np.argmin((y - np.median(y)) ** 2 + (x - np.median(x)) ** 2)
        centres.append((y[nearest] + 1, x[nearest] + 1))
        extent = rows.stop - rows.start + columns.stop - columns.start + 2
        n_iterations = max(n_iterations, 2 * extent)
    # The order of the sum is that of the released code: where a cell is symmetric its gradient is
    # rounding noise, and only the same noise has the same direction.
    around = [(0, 0), (-1, 0), (1, 0), (0, -1), (0, 1), (-1, -1), (-1, 1), (1, -1), (1, 1)]
    y, x = np.nonzero(padded)
    same = [padded[y + dy, x + dx] == padded[y, x] for dy, dx in around]
    for _ in range(n_iterations):
        for centre in centres:
            temperature[centre] += 1
        total = np.zeros(len(y))
        for (dy, dx), is_same in zip(around, same, strict=True):
            total = total + np.where(is_same, temperature[y + dy, x + dx], 0)
        temperature[y, x] = total / 9
    temperature = np.log(1 + temperature)
    gradient = np.stack(
        [
            temperature[y + 1, x] - temperature[y - 1, x],
            temperature[y, x + 1] - temperature[y, x - 1],
        ]
    )
    flow = np.zeros((2, height, width))
    flow[:, y - 1, x - 1] = gradient / (1e-20 + np.sqrt((gradient**2).sum(axis=0)))
    return flow


def flow_errors(labels, flow):
    """Error of cells 1 … n."""
    squared = ((flow / FLOW_SCALE - unit_flow(labels)) ** 2).sum(axis=0)
    return np.array([squared[labels == each].mean() for each in range(1, labels.max() + 1)])


def drop_bad_flow(labels, flow, flow_threshold=0.4):
    if not labels.any():
        return labels
    bad = 1 + np.flatnonzero(flow_errors(labels, flow) > flow_threshold)
    return consecutive(np.where(np.isin(labels, bad), 0, labels))


def tracked(flow, foreground):
    return foreground & (np.abs(flow[0] / FLOW_SCALE) > 1e-3)


def released_labels(maps, end_points=None):
    """All steps.

    Args:
        maps: ``(3, H, W)``: flow y, flow x, cell-probability logit.
        end_points: ``(n, 2)`` int end points of the tracked pixels in row-major order, in place of
            those that are computed here.

    Returns:
        ``(H, W)`` int labels 1 … n.
    """
    flow = maps[:2].astype(np.float64)
    foreground = clean(1 / (1 + np.exp(-maps[2].astype(np.float64))) > 0.5)
    start_y, start_x = np.nonzero(tracked(flow, foreground))
    if len(start_y) < 5:
        return np.zeros(foreground.shape, dtype=int)
    if end_points is None:
        field = flow * foreground / FLOW_SCALE
        end_points = np.stack(follow(field, start_y * 1.0, start_x * 1.0), axis=1).astype(int)
    end_y, end_x = (grid.copy() for grid in np.mgrid[: maps.shape[1], : maps.shape[2]])
    end_y[start_y, start_x], end_x[start_y, start_x] = end_points.T
    return drop_bad_flow(drop_giants(labels_of_end_points(end_y, end_x)), flow)
