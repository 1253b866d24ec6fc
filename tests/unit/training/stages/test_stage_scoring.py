"""Scores of weights on held-out and tuning images."""

import math

import numpy as np
import pytest
import tifffile
import torch
from fakes import FunctionBackend, maps_of_labels, tiny_state_dict
from small_runs import make_record, make_records
from torch import nn

from mediar_infer.config import PLANS, EngineConfig
from mediar_infer.errors import UsageError
from mediar_infer.labels.reading import read_labels
from mediar_infer.network.checkpoints import save_weights
from mediar_infer.segmenter import Segmenter
from mediar_infer.training.stages.fabric import build_fabric
from mediar_infer.training.stages.launch import _Validation
from mediar_infer.training.stages.progress import Score
from mediar_infer.training.stages.scoring import compute_mean_f1, count_cells, score_weights


@pytest.fixture
def records(tmp_path):
    return make_records(tmp_path)


def make_knowing_segmenter(record):
    """An engine whose network knows the labels of one image, 80 × 80 pixels in the middle."""
    maps = torch.from_numpy(maps_of_labels(read_labels(record.label_path)))

    def predict(inputs):
        logits = torch.full_like(inputs, -4.0)
        logits[..., 216:296, 216:296] = maps
        return logits

    return Segmenter([FunctionBackend(predict)], EngineConfig(plan=PLANS["single"]))


def test_network_that_knows_the_labels_scores_one(records):
    scores = score_weights(make_knowing_segmenter(records[0]), records[:1])
    assert compute_mean_f1(scores) == 1.0
    assert scores[0].n_cells == len(set(read_labels(records[0].label_path).ravel())) - 1


def test_images_whose_cells_all_touch_the_border_leave_the_mean_as_it_is(records, tmp_path):
    labels = np.zeros((80, 80), np.uint16)
    labels[:20, :30], labels[60:, 40:] = 1, 2
    border = make_record(tmp_path, "border")
    tifffile.imwrite(border.label_path, labels)
    (alone,) = score_weights(make_knowing_segmenter(border), [border])
    assert math.isnan(alone.f1)
    assert compute_mean_f1([alone]) == 0.0
    both = [alone, *score_weights(make_knowing_segmenter(records[0]), records[:1])]
    assert compute_mean_f1(both) == 1.0
    # a network that finds a cell where none counts is wrong
    (wrong,) = score_weights(make_knowing_segmenter(records[0]), [border])
    assert wrong.f1 == 0.0
    fabric = build_fabric("cpu", 1, "float32")
    fabric.launch()
    assert _Validation(fabric, [border], "f1")(NoCells()) == Score("f1", 0.0, 0)


class NoCells(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))

    def forward(self, inputs):
        return torch.full_like(inputs, -4.0) + self.weight


def test_images_without_labels_are_counted_only(records):
    scores = score_weights(make_knowing_segmenter(records[0]), records[-1:])
    assert count_cells(scores) > 0
    with pytest.raises(UsageError, match="tune1: found no labels"):
        compute_mean_f1(scores)


def test_files_and_networks_are_scored_alike(records, tmp_path):
    path = tmp_path / "a.safetensors"
    save_weights(tiny_state_dict(), path)
    (score,) = score_weights(path, records[:1], "cpu")
    assert 0 <= score.f1 <= 1
    assert len(score.f1s) == 5


def test_nothing_to_score_is_refused(tmp_path):
    with pytest.raises(UsageError, match="found no image to score"):
        score_weights(tmp_path / "a.safetensors", [])
