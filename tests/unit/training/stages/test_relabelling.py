"""Predictions as labels: which images get them, where they are written, what is never touched."""

import csv
from argparse import ArgumentParser

import numpy as np
import pytest
import torch
from fakes import FunctionBackend, draw_ellipses, maps_of_labels
from small_runs import make_record

from mediar_infer import __version__
from mediar_infer.config import PLANS, EngineConfig
from mediar_infer.errors import DataError, UsageError
from mediar_infer.labels.files import write_labels
from mediar_infer.labels.reading import read_labels
from mediar_infer.segmenter import Segmenter
from mediar_infer.training.commands import relabel as relabel_command
from mediar_infer.training.data.file_checks import find_origin
from mediar_infer.training.data.table import read_table, write_table
from mediar_infer.training.stages import scoring
from mediar_infer.training.stages.relabelling import (
    decide,
    find_label_paths,
    read_decisions,
    relabel,
    replace_labels,
)

CELLS = draw_ellipses(80, 80, [(20, 22, 9, 10), (55, 25, 10, 8), (45, 58, 11, 9)])
"""What the fake model sees in every image."""


def make_segmenter(labels=CELLS, digest="abc", flow_threshold=None):
    """An engine that predicts these labels, whatever it is shown."""
    maps = np.full((3, 96, 96), -4.0, np.float32)
    maps[:2] = 0
    maps[:, :80, :80] = maps_of_labels(labels)
    config = EngineConfig(plan=PLANS["single"], roi_size=96)

    def predict(inputs):
        # windows are centred: 80 pixels in 96
        return torch.from_numpy(np.roll(maps, (8, 8), (1, 2))).expand(len(inputs), -1, -1, -1)

    digests = {"fake.safetensors": digest}
    return Segmenter([FunctionBackend(predict)], config, digests, flow_threshold=flow_threshold)


def with_labels(record, labels):
    write_labels(record.label_path, [labels], height=80, width=80)
    return record


@pytest.fixture
def records(tmp_path):
    """Right labels, labels of other cells, no cell, and an unlabelled image."""
    return [
        with_labels(make_record(tmp_path, "right", "target"), CELLS),
        with_labels(make_record(tmp_path, "other", "target"), np.roll(CELLS, 25, 1)),
        with_labels(make_record(tmp_path, "empty", "target"), np.zeros_like(CELLS)),
        make_record(tmp_path, "bare", "unlabelled"),
    ]


def test_labels_that_agree_stay():
    decision = decide("a", CELLS, CELLS, 0.5)
    assert (decision.action, decision.label_name, decision.f1) == ("agrees", "", 1.0)
    assert (decision.n_true, decision.n_predicted, decision.n_matched) == (3, 3, 3)


def test_labels_that_disagree_are_replaced():
    decision = decide("a", np.roll(CELLS, 25, 1), CELLS, 0.5)
    assert (decision.action, decision.label_name) == ("relabelled", "a_label.tiff")


def test_threshold_is_the_smallest_f1_that_agrees():
    two_of_three = np.where(CELLS == 3, 0, CELLS)  # F1 = 2 · 2 / (2 + 3)
    assert decide("a", CELLS, two_of_three, 0.8).action == "agrees"
    assert decide("a", CELLS, two_of_three, 0.81).action == "relabelled"


def test_empty_prediction_never_replaces_labels():
    assert decide("a", CELLS, np.zeros_like(CELLS), 0.5).action == "prediction empty"
    at_the_border = draw_ellipses(80, 80, [(0, 40, 12, 12)])
    assert decide("a", CELLS, at_the_border, 0.5).action == "prediction empty"


def test_image_whose_cells_all_touch_the_border_is_not_scored():
    cell = draw_ellipses(80, 80, [(0, 40, 12, 12)])
    decision = decide("a", cell, np.roll(cell, 20, 1), 0.5)
    assert decision.action == "not scored"
    assert np.isnan(decision.f1)


def test_new_labels_are_written_where_labels_disagree_or_are_missing(records, tmp_path):
    decisions = relabel(make_segmenter(), records, tmp_path / "new", min_f1=0.5)
    assert [decision.action for decision in decisions] == [
        "agrees", "relabelled", "relabelled", "pseudo-labelled",
    ]  # fmt: skip
    paths = find_label_paths(tmp_path / "new", decisions)
    assert sorted(paths) == ["bare", "empty", "other"]
    for path in paths.values():
        assert decide("a", CELLS, read_labels(path).astype(np.int32), 0.5).f1 == 1.0


def test_new_labels_say_that_they_are_predictions(records, tmp_path):
    decisions = relabel(make_segmenter(), records, tmp_path / "new", min_f1=0.5)

    paths = find_label_paths(tmp_path / "new", decisions)
    assert paths
    for path in paths.values():
        assert find_origin(path).startswith(f"labels that mediar-infer {__version__} predicted")


def test_original_files_are_as_they_were(records, tmp_path):
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    relabel(make_segmenter(), records, tmp_path / "new", min_f1=0.5, with_overlays=True)
    assert {path: path.read_bytes() for path in before} == before


def test_output_among_the_data_is_refused(records, tmp_path):
    path = tmp_path / "data" / "labels" / "mine_label.tiff"
    record = make_record(tmp_path, "mine", "target")
    path.parent.mkdir(parents=True)
    record.label_path.rename(path)
    moved = replace_labels([record], {"mine": path})
    with pytest.raises(UsageError, match="original labels are never replaced"):
        relabel(make_segmenter(), moved, tmp_path / "data", min_f1=0.5)
    assert not (tmp_path / "data" / "relabelling.csv").exists()


def test_two_images_with_one_output_name_are_refused(tmp_path):
    pair = [make_record(tmp_path, name, "target") for name in ("a b", "a_b")]
    with pytest.raises(UsageError, match="a b and a_b, whose labels would both get"):
        relabel(make_segmenter(), pair, tmp_path / "new", min_f1=0.5)


def test_no_image_is_an_error(tmp_path):
    with pytest.raises(UsageError, match="no image to relabel"):
        relabel(make_segmenter(), [], tmp_path, min_f1=0.5)


def test_log_has_a_line_per_image_and_reads_back(records, tmp_path):
    decisions = relabel(make_segmenter(), records, tmp_path / "new", min_f1=0.5)
    with (tmp_path / "new" / "relabelling.csv").open() as file:
        assert [row["image_id"] for row in csv.DictReader(file)] == [
            "right", "other", "empty", "bare",
        ]  # fmt: skip
    # NaN is not equal to itself: compared as text
    assert str(read_decisions(tmp_path / "new")) == str(decisions)


def test_damaged_log_names_its_columns(tmp_path):
    (tmp_path / "relabelling.csv").write_text("image_id,f1\na,0.5\n")
    with pytest.raises(DataError, match="expected the columns image_id, n_true"):
        read_decisions(tmp_path)


def test_finished_relabelling_is_not_computed_again(records, tmp_path):
    first = make_segmenter()
    relabel(first, records, tmp_path / "new", min_f1=0.5)
    second = make_segmenter()
    relabel(second, records, tmp_path / "new", min_f1=0.5)
    assert second.members[0].n_calls == 0


@pytest.mark.parametrize("change", ["model", "flow", "threshold", "labels", "missing file"])
def test_relabelling_is_done_again_when_something_changed(records, tmp_path, change):
    relabel(make_segmenter(), records, tmp_path / "new", min_f1=0.5)
    if change == "labels":
        with_labels(records[0], np.roll(CELLS, 3, 1))
    if change == "missing file":
        (tmp_path / "new" / "labels" / "other_label.tiff").unlink()
    again = make_segmenter(
        digest="other" if change == "model" else "abc",
        flow_threshold=0.3 if change == "flow" else None,
    )
    relabel(again, records, tmp_path / "new", min_f1=0.6 if change == "threshold" else 0.5)
    assert again.members[0].n_calls == len(records)


def test_records_point_to_new_labels_and_pseudo_labelled_images_become_targets(records, tmp_path):
    decisions = relabel(make_segmenter(), records, tmp_path / "new", min_f1=0.5)
    replaced = replace_labels(records, find_label_paths(tmp_path / "new", decisions))
    assert replaced[0] == records[0]
    assert [record.role for record in replaced] == ["target"] * 4
    assert [record.n_cells for record in replaced[1:]] == [3, 3, 3]


def test_overlays_show_images_that_change(records, tmp_path):
    relabel(make_segmenter(), records, tmp_path / "new", min_f1=0.5, with_overlays=True)
    names = sorted(path.name for path in (tmp_path / "new" / "overlays").iterdir())
    assert names == ["bare.png", "empty.png", "other.png"]


def test_command_writes_a_table_with_the_new_labels(records, tmp_path, monkeypatch):
    write_table(records, tmp_path / "table.csv")
    monkeypatch.setattr(scoring, "load_for_scoring", lambda *_: make_segmenter())
    parser = ArgumentParser()
    relabel_command.add_arguments(parser)
    options = [
        "--table",
        str(tmp_path / "table.csv"),
        "--weights",
        "w",
        "-o",
        str(tmp_path / "new"),
    ]
    assert relabel_command.run(parser.parse_args([*options, "--roles", "target"])) == 0
    labels = {r.image_id: r.label_path for r in read_table(tmp_path / "new" / "table.csv")}
    assert labels["right"] == records[0].label_path
    assert labels["other"] == tmp_path / "new" / "labels" / "other_label.tiff"
    assert labels["bare"] is None
