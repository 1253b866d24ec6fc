"""Our scorer against the challenge's, on stored pairs of label images."""

import json

import numpy as np
import pytest

from mediar_infer.labels.metrics import THRESHOLDS, evaluate_labels

TOLERANCE = 1e-9


@pytest.fixture(scope="module")
def pairs(golden_dir):
    with np.load(golden_dir / "metric_small.npz") as arrays:
        yield arrays


@pytest.fixture(scope="module")
def official(golden_dir):
    rows = json.loads((golden_dir / "metric.json").read_text())
    return {(str(row["pair"]), row["threshold"]): row for row in rows}


def assert_equal_to_official(scores, pair, official):
    for each in scores:
        row = official[pair, each.threshold]
        found = [each.precision, each.recall, each.f1]
        expected = [row["precision"], row["recall"], row["f1"]]
        np.testing.assert_allclose(found, expected, rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("pair", [str(number) for number in range(8)])
def test_scores_equal_the_official_ones(pairs, official, pair):
    scores = evaluate_labels(pairs[f"{pair}_true"], pairs[f"{pair}_pred"])
    assert [each.threshold for each in scores] == list(THRESHOLDS)
    assert_equal_to_official(scores, pair, official)


def test_score_of_an_image_over_25_megapixels_equals_the_official_one(pairs, official):
    true = pairs["big_true"]
    assert true.size >= 25_000_000
    scores = evaluate_labels(true, pairs["big_pred"], thresholds=(0.5,))
    assert_equal_to_official(scores, "big", official)
