"""Stand-ins for a trained network, and images that have cells to find."""

import cv2
import numpy as np
import torch

from mediar_infer.arrays import CELLPROB, FLOW_SCALE
from mediar_infer.devices import CPU
from mediar_infer.engine.preprocess import compute_scaling
from mediar_infer.images.sources import ArraySource
from mediar_infer.labels.flows import compute_unit_flow
from mediar_infer.network.architecture import Architecture
from mediar_infer.network.model import MediarFormer

TINY = Architecture((8, 16, 20, 32), (1, 1, 1, 1), (16, 16, 8, 8, 8), 8)
"""A MEDIAR-Former of a few thousand weights."""


class Clock:
    """A clock that moves only when told to."""

    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now

    def pass_s(self, seconds):
        self.now += seconds


class FunctionBackend:
    """A torch function ``(N, 3, h, w) → (N, 3, h, w)`` as a member; counts its work."""

    def __init__(self, function, batch=4):
        self.function, self.batch = function, batch
        self.name, self.precision = "fake", "float32"
        self.device = CPU
        self.n_calls = self.n_windows = 0

    def start(self, inputs):
        self.n_calls += 1
        self.n_windows += len(inputs)
        logits = self.function(torch.as_tensor(inputs))
        # As a backend of the CPU, unless a test lets the engine compute in torch.
        result = logits.numpy() if isinstance(inputs, np.ndarray) else logits
        return lambda: result


class TimedBackend(FunctionBackend):
    """A function whose windows take a known time on a clock; later ones ``slowdown`` times that."""

    def __init__(self, function, clock, window_s, *, slow_after=None, slowdown=3, first_s=0.0):
        super().__init__(function)
        self.clock, self.window_s, self.first_s = clock, window_s, first_s
        self.slow_after, self.slowdown = slow_after, slowdown

    def start(self, inputs):
        if self.n_calls == 0:
            self.clock.pass_s(self.first_s)
        for number in range(self.n_windows, self.n_windows + len(inputs)):
            is_slow = self.slow_after is not None and number >= self.slow_after
            self.clock.pass_s(self.window_s * (self.slowdown if is_slow else 1))
        return super().start(inputs)


def tiny_state_dict(seed=0):
    """Random weights of ``TINY`` under their published names."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return MediarFormer(TINY).state_dict()


def normalise_image(image, name="array"):
    """Normalise an array ``(H, W)`` or ``(H, W, C)`` as a whole to ``(H, W, 3)`` uint8."""
    source = ArraySource(image, name)
    return compute_scaling(source).apply(source.read_rows(0, source.height))


def draw_ellipses(height, width, ellipses):
    """Labels of ellipses ``(y, x, radius_y, radius_x)``; earlier ones lie on later ones."""
    labels = np.zeros((height, width), dtype=np.int32)
    y, x = np.mgrid[:height, :width]
    for number, (cy, cx, ry, rx) in enumerate(ellipses, start=1):
        inside = ((y - cy) / ry) ** 2 + ((x - cx) / rx) ** 2 < 1
        labels[inside & (labels == 0)] = number
    return labels


def draw_cells(rng, height, width, spacing=36, radii=(8, 14)):
    """Labels 1 … n of separate ellipses on a shaken grid, some of them cut by the border."""
    ellipses = [
        (y + rng.uniform(-2, 2), x + rng.uniform(-2, 2), rng.uniform(*radii), rng.uniform(*radii))
        for y in range(spacing // 3, height + spacing // 3, spacing)
        for x in range(spacing // 3, width + spacing // 3, spacing)
    ]
    labels = draw_ellipses(height, width, ellipses)
    # Slivers at the border are below the size limit.
    large = np.bincount(labels.ravel(), minlength=len(ellipses) + 1) >= 40
    large[0] = False
    return np.where(large, large.cumsum(), 0).astype(np.int32)[labels]


def maps_of_labels(labels, noise=0.25, seed=0):
    """Maps ``(3, H, W)`` float32 of a network that knows the labels, with noise on the flow.

    Without noise the middle row of an exactly symmetric cell would have no vertical flow at all,
    so it would not be tracked (as released), and the halves of the cell would fail the flow check.
    """
    flow = FLOW_SCALE * compute_unit_flow(labels)
    flow += np.random.default_rng(seed).normal(0, noise, flow.shape)
    logits = np.where(labels > 0, 4.0, -4.0)[None]
    return np.concatenate([flow, logits]).astype(np.float32)


def intersection_over_union(labels, others):
    """Best overlap of each cell of ``labels`` with any cell of ``others``."""
    best = []
    for each in np.unique(labels[labels > 0]):
        mask = labels == each
        scores = [
            np.count_nonzero(mask & (others == other)) / np.count_nonzero(mask | (others == other))
            for other in np.unique(others[mask])
            if other > 0
        ]
        best.append(max(scores, default=0.0))
    return np.array(best)


def agreement(labels, others):
    """Fraction of pixels that are equal after the best-matching ids are paired one to one."""
    pairs, counts = np.unique(
        np.stack([labels.ravel(), others.ravel()]).astype(np.int64), axis=1, return_counts=True
    )
    n_equal, taken, taken_by_others = 0, {0}, {0}
    for i in np.argsort(-counts, kind="stable"):
        a, b = pairs[:, i].tolist()
        if a == b == 0 or (a not in taken and b not in taken_by_others):
            n_equal += counts[i]
            taken.add(a)
            taken_by_others.add(b)
    return n_equal / labels.size


def know_cells_of(smallest, largest):
    """A network ``(N, 3, h, w) → logits`` that knows bright cells of a range of diameters only.

    Of larger and smaller ones it is unsure: short flow, and cell probabilities about one half.
    """
    areas = np.pi / 4 * np.square((smallest, largest))

    def predict(inputs):
        return torch.from_numpy(np.stack([look(each) for each in inputs.numpy().mean(axis=1)]))

    def look(window):
        bright = (window > 0.5).astype(np.uint8)
        _, components, stats, _ = cv2.connectedComponentsWithStats(bright, connectivity=4)
        sizes = stats[:, cv2.CC_STAT_AREA]
        is_known = (sizes >= areas[0]) & (sizes <= areas[1])
        is_known[0] = False
        maps = maps_of_labels(np.where(is_known, np.arange(len(sizes)), 0)[components])
        unsure = (bright > 0) & ~is_known[components]
        maps[:CELLPROB, unsure] *= 0.2
        maps[CELLPROB, unsure] = 0.5
        return maps

    return predict


def draw_discs(height, width, diameter, spacing=1.6):
    """A picture ``(H, W)`` uint8 of bright discs on a dark ground, and their labels."""
    step = diameter * spacing
    centres = [
        (y, x, diameter / 2, diameter / 2)
        for y in np.arange(step, height - step / 2, step)
        for x in np.arange(step, width - step / 2, step)
    ]
    labels = draw_ellipses(height, width, centres)
    return np.where(labels > 0, 200, 10).astype(np.uint8), labels
