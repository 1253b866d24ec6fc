"""A flow check that removes most cells of an image says so."""

import numpy as np
import pytest
import torch
from fakes import FunctionBackend
from slides import SlideScene, decode_scene

from mediar_infer.config import EngineConfig, MaskConfig
from mediar_infer.image_trace import Trace
from mediar_infer.images.sources import ArraySource
from mediar_infer.segmenter import Segmenter

SCENE = SlideScene(200, 250)


def decode_without_flow(inputs):
    """Cells where they are, but a flow that fits none of them."""
    logits = decode_scene(inputs)
    noise = np.random.default_rng(0).normal(0, 5, tuple(logits[:, :2].shape))
    logits[:, :2] = logits[:, :2] / 5 + torch.from_numpy(noise)
    return logits


def segment(network, **masks):
    config = EngineConfig(roi_size=64, masks=MaskConfig(**masks))
    trace = Trace()
    source = ArraySource(SCENE.render_rows(0, SCENE.height))
    with Segmenter([FunctionBackend(network)], config).begin(source, trace) as work:
        labels = np.concatenate(list(work.labels()))
    return int(labels.max()), trace


@pytest.mark.parametrize("blocks", ["auto", "stitched"])
def test_share_of_removed_cells_is_a_warning(blocks):
    n_cells, trace = segment(decode_without_flow, blocks=blocks)
    n_checked, n_removed = trace.flow_check["n_checked"], trace.flow_check["n_removed"]
    assert n_cells == n_checked - n_removed
    (warning,) = trace.warnings
    assert trace.flow_check["share_removed"] == n_removed / n_checked > 0.5
    share = f"{n_removed / n_checked:.0%}"
    assert warning.startswith(f"the flow check removed {n_removed} of {n_checked} cells ({share})")
    assert "--flow-threshold" in warning


def test_cells_that_pass_are_counted_without_a_warning():
    n_cells, trace = segment(decode_scene)
    assert trace.flow_check == {"n_checked": n_cells, "n_removed": 0, "share_removed": 0}
    assert trace.warnings == ()


def test_check_that_is_off_counts_nothing():
    n_cells, trace = segment(decode_without_flow, flow_threshold=None)
    assert n_cells > 10
    assert trace.flow_check == {"n_checked": 0, "n_removed": 0, "share_removed": 0}
    assert trace.warnings == ()
