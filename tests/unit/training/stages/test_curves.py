"""Learning curves from logs."""

import json

import cv2
import numpy as np
import pytest

from mediar_infer.errors import UsageError
from mediar_infer.training.stages.curves import draw_curves, read_curves, smooth


@pytest.fixture
def run(tmp_path):
    stages = [
        {"name": "first", "start": "random"},
        {"name": "second", "start": "stage:first"},
        {"name": "other", "start": "stage:first"},
    ]
    path = tmp_path / "run"
    for stage, n_steps in zip(stages, (4, 3, 2), strict=True):
        (path / stage["name"]).mkdir(parents=True)
        rows = "".join(f"{step},{1 / step}\n" for step in range(1, n_steps + 1))
        (path / stage["name"] / "log.csv").write_text(f"step,loss\n{rows}")
    scores = "step,measure,value,n_images\n1,f1,0.5,2\n2,f1,0.75,2\n2,count,9,2\n"
    (path / "second" / "validation.csv").write_text(scores)
    (path / "recipe.json").write_text(json.dumps({"recipe": {"stages": stages}}))
    return path


def test_stages_begin_where_the_one_before_ends(run):
    curves = read_curves(run)
    assert [each.name for each in curves] == ["run: first", "run: second", "run: other"]
    assert [each.offset for each in curves] == [0, 4, 4]
    np.testing.assert_array_equal(curves[1].scores["f1"][1], [0.5, 0.75])
    np.testing.assert_array_equal(curves[1].scores["count"][0], [2])
    assert [each.name for each in read_curves(run, ["other"])] == ["run: other"]


def test_smoothing_is_a_running_mean_that_is_shorter_at_the_ends():
    values = np.array([1.0, 4.0, 1.0, 4.0])
    np.testing.assert_allclose(smooth(values, 3), [2.5, 2, 3, 2.5])
    np.testing.assert_allclose(smooth(values, 1), values)


def test_picture_has_a_panel_for_losses_and_for_each_measure(run, tmp_path):
    draw_curves([run], tmp_path / "all.png")
    draw_curves([run], tmp_path / "first.png", ["first"])
    heights = [cv2.imread(str(tmp_path / name)).shape[0] for name in ("all.png", "first.png")]
    assert heights[0] == pytest.approx(3 * heights[1], rel=0.02)


def test_folder_without_a_run_is_named(tmp_path):
    with pytest.raises(UsageError, match=r"recipe\.json: found no such file"):
        read_curves(tmp_path)
