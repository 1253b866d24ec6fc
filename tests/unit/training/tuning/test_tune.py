"""The user's fine-tuning: what is chosen, what is refused, and a whole run of a few steps."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import tifffile
from fakes import tiny_state_dict
from small_runs import make_record

from mediar_infer.errors import CheckpointError, TrainingError, UsageError
from mediar_infer.labels.reading import read_labels
from mediar_infer.network.checkpoints import save_weights
from mediar_infer.network.weight_files import (
    ListedWeights,
    compute_digest,
    find_weights,
    read_weights_manifest,
    write_weights_manifest,
)
from mediar_infer.training.data.table import SPLITS, read_table, write_table
from mediar_infer.training.stages import scoring
from mediar_infer.training.stages.execution import Execution
from mediar_infer.training.stages.trainer import Trainer
from mediar_infer.training.tuning import blends
from mediar_infer.training.tuning import tune as tuning
from mediar_infer.training.tuning.blends import ScoredBlend, choose, score_memory
from mediar_infer.training.tuning.options import TuneOptions
from mediar_infer.training.tuning.tune import tune

START = ScoredBlend(0.0, 0.5, 0.8)


def judge_and_choose(start, max_loss, *values):
    """Blends (share, F1, F1 on the memory) → the chosen one; shares scored on the memory."""
    asked = []

    def score(share):
        asked.append(share)
        return {each: memory for each, _, memory in values}[share]

    candidates = [ScoredBlend(share, f1, None) for share, f1, _ in values]
    judged = score_memory(start, candidates, max_loss, score)
    assert [each.share for each in judged] == [share for share, *_ in values]
    return choose(start, judged, max_loss), asked


def test_best_blend_that_forgets_little_is_chosen():
    values = [(0.25, 0.6, 0.81), (0.5, 0.7, 0.79), (0.75, 0.4, 0.9), (1.0, 0.9, 0.7)]
    chosen, asked = judge_and_choose(START, 0.02, *values)
    assert chosen == ScoredBlend(0.5, 0.7, 0.79)
    assert asked == [1.0, 0.5]
    chosen, asked = judge_and_choose(START, 0.2, *values)
    assert chosen == ScoredBlend(1.0, 0.9, 0.7)
    assert asked == [1.0]


def test_smaller_share_is_chosen_among_equals():
    values = [(share, 0.7, None) for share in (0.5, 0.25, 1.0)]
    assert judge_and_choose(ScoredBlend(0.0, 0.5, None), 0.02, *values)[0].share == 0.25


@pytest.mark.parametrize("f1", [0.2, 0.5])
def test_weights_no_better_than_the_start_are_refused_without_a_look_at_the_memory(f1):
    candidates = [ScoredBlend(0.5, f1, None)]
    assert score_memory(START, candidates, 0.02, pytest.fail) == candidates
    with pytest.raises(TrainingError, match=r"start: F1 0.5000.*share 0.5.*nothing was written"):
        choose(START, candidates, 0.02)


def test_weights_that_forget_are_refused():
    with pytest.raises(
        TrainingError,
        match=r"best of 2: share 0.5.*, 0\.7000 on .*at most 0\.02 less on the memory",
    ):
        judge_and_choose(START, 0.02, (0.5, 0.9, 0.7), (1.0, 0.8, 0.6))


@pytest.fixture
def options(tmp_path):
    path = tmp_path / "start" / "from_phase2.safetensors"
    save_weights(tiny_state_dict(), path)
    return TuneOptions(
        weights=(path,), steps=2, has_graph=False, execution=Execution("cpu", threads=1)
    )


@pytest.fixture
def folder(tmp_path):
    for i in range(3):
        make_record(tmp_path / "mine", f"cell{i}")
    return tmp_path / "mine"


def score_by_share(monkeypatch, f1s):
    monkeypatch.setattr(tuning.BlendJudge, "score", lambda self, share: f1s[share])


def test_better_weights_are_written_for_the_engine(folder, options, tmp_path, monkeypatch):
    score_by_share(monkeypatch, {0.0: 0.1, 0.25: 0.2, 0.5: 0.4, 0.75: 0.3, 1.0: 0.0})
    output = tmp_path / "out" / "mine.safetensors"
    result = tune(folder, output, options)
    assert (result.chosen.share, result.start_path) == (0.5, options.weights[0])
    assert find_weights([output]) == [output]
    run = tmp_path / "out" / "mine.run"
    assert json.loads((run / "candidates.json").read_text())[2]["f1"] == 0.4
    splits = [record.split for record in read_table(run / "table.csv")]
    assert sorted(splits) == ["train", "train", "val"]


def test_flow_threshold_of_the_start_counts_for_all_scores_and_for_what_is_written(
    folder, options, tmp_path, monkeypatch
):
    def score_image(segmenter, record):
        thresholds.append(segmenter.config.masks.flow_threshold)
        return scoring.ImageScore(record, 1, (0.01 * len(thresholds),) * 5)

    (first,), thresholds = options.weights, []
    second = first.with_name("from_phase1.safetensors")
    save_weights(tiny_state_dict(1), second)
    listed = {path.name: ListedWeights(compute_digest(path), None, None, 0.55)
              for path in (first, second)}  # fmt: skip
    write_weights_manifest(first.parent, listed)
    monkeypatch.setattr(scoring, "score_image", score_image)
    output = tmp_path / "out" / "mine.safetensors"
    tune(folder, output, replace(options, weights=(first, second)))
    assert set(thresholds) == {0.55}
    assert read_weights_manifest(output.parent)[output.name].flow_threshold == 0.55


def test_worse_weights_are_not_written(folder, options, tmp_path, monkeypatch):
    score_by_share(monkeypatch, dict.fromkeys((0.0, 0.25, 0.5, 0.75, 1.0), 0.1))
    output = tmp_path / "out" / "mine.safetensors"
    for _ in range(2):  # a second time as the first one left things
        with pytest.raises(TrainingError, match="nothing was written"):
            tune(folder, output, options)
        assert not output.exists()
        assert not (output.parent / "manifest.json").exists()
        told = json.loads((output.with_suffix(".run") / "candidates.json").read_text())
        assert [each["share"] for each in told] == [0.0, 0.25, 0.5, 0.75, 1.0]


@pytest.mark.parametrize(
    ("owner", "name"),
    [(Trainer, "_finish"), (tuning.BlendJudge, "score"), (tuning.BlendJudge, "score_memory")],
)
def test_stopped_tuning_is_not_lost_and_goes_on_with_the_same_images_only(
    folder, options, tmp_path, monkeypatch, owner, name
):
    def die(self, *args):
        raise KeyboardInterrupt

    output, resuming = tmp_path / "mine.safetensors", replace(options.execution, resume=True)
    folder = folder.parent / "mine" / ".." / "mine"
    with monkeypatch.context() as patch:
        patch.setattr(owner, name, die)
        with pytest.raises(KeyboardInterrupt):
            tune(folder, output, options)
    table = (tmp_path / "mine.run" / "table.csv").read_bytes()
    with pytest.raises(UsageError, match=r"found an interrupted tuning, .* --resume"):
        tune(folder, output, options)
    make_record(folder, "one_more")
    with pytest.raises(UsageError, match="found other images or another hold-out"):
        tune(folder, output, replace(options, execution=resuming))
    assert (tmp_path / "mine.run" / "table.csv").read_bytes() == table
    for path in folder.glob("one_more*"):
        path.unlink()
    labels = (folder / "cell0_label.tiff").read_bytes()
    tifffile.imwrite(folder / "cell0_label.tiff", read_labels(folder / "cell0_label.tiff").T)
    with pytest.raises(UsageError, match=r"made with other settings: (images|scored) was"):
        tune(folder, output, replace(options, execution=resuming))
    (folder / "cell0_label.tiff").write_bytes(labels)
    score_by_share(monkeypatch, {0.0: 0.1, 0.25: 0.2, 0.5: 0.4, 0.75: 0.3, 1.0: 0.0})
    assert tune(folder, output, replace(options, execution=resuming)).chosen.share == 0.5


def test_memory_is_replayed_and_judged(folder, options, tmp_path, monkeypatch):
    for i in range(5):
        make_record(tmp_path / "memory", f"old{i}")
    score_by_share(monkeypatch, {0.0: 0.1, 0.25: 0.2, 0.5: 0.1, 0.75: 0.1, 1.0: 0.1})
    monkeypatch.setattr(blends, "_MAX_SCORED_MEMORY", 2)
    options = TuneOptions(
        weights=options.weights, steps=1, has_graph=False, execution=options.execution,
        memory=tmp_path / "memory",
    )  # fmt: skip
    result = tune(folder, tmp_path / "mine.safetensors", options)
    assert result.start.memory_f1 is not None
    assert result.chosen.memory_f1 is not None
    told = json.loads((tmp_path / "mine.run" / "candidates.json").read_text())
    assert [each["memory_f1"] is not None for each in told] == [True, True, False, False]
    summary = json.loads((tmp_path / "mine.run" / "tune" / "summary.json").read_text())
    stage = summary["description"]["stage"]
    assert (stage["memory_roles"], stage["memory_per_batch"]) == (["public"], 2)


@pytest.mark.parametrize("is_table", [False, True])
def test_images_to_tune_on_are_no_part_of_the_memory(
    folder, options, tmp_path, monkeypatch, is_table, caplog
):
    score_by_share(monkeypatch, {0.0: 0.1, 0.25: 0.2, 0.5: 0.1, 0.75: 0.1})
    memory = tmp_path / "memory"
    records = [make_record(memory, f"old{i}") for i in range(2)]
    for path in folder.iterdir():
        shutil.copy(path, memory / f"mine_{path.name}")
    if is_table:  # where all of them are trained on
        memory = tmp_path / "table.csv"
        write_table([*records, *(make_record(folder, f"cell{i}") for i in range(3))], memory)
    tune(folder, tmp_path / "out.safetensors", replace(options, memory=memory, steps=1))
    used = read_table(tmp_path / "out.run" / "table.csv")
    assert [each.image_id for each in used[3:]] == ["memory:old0", "memory:old1"]
    assert "3 of 5 images are among those to tune on" in caplog.text


def test_memory_leaves_out_images_without_labels(folder, options, tmp_path, monkeypatch, caplog):
    score_by_share(monkeypatch, {0.0: 0.1, 0.25: 0.2, 0.5: 0.1, 0.75: 0.1})
    memory = tmp_path / "memory"
    for i in range(2):
        make_record(memory, f"old{i}")
    make_record(memory, "seen", "tuning")
    lines = ["id,image,label,role,split"]
    lines += [f"old{i},old{i}.png,old{i}_label.tiff,public,train" for i in range(2)]
    (memory / "manifest.csv").write_text("\n".join([*lines, "seen,seen.png,,tuning,"]))
    result = tune(folder, tmp_path / "out.safetensors", replace(options, memory=memory, steps=1))
    used = read_table(tmp_path / "out.run" / "table.csv")
    assert [each.image_id for each in used[3:]] == ["memory:old0", "memory:old1"]
    assert result.chosen.memory_f1 is None
    assert "memory: none of the 2 images is held out, so that what is forgotten is" in caplog.text


def test_memory_of_the_images_to_tune_on_alone_is_refused(folder, options, tmp_path):
    with pytest.raises(UsageError, match="no labelled image to replay besides 3 of those to tune"):
        tune(folder, tmp_path / "out.safetensors", replace(options, memory=folder))


def test_copies_of_the_held_out_image_are_not_trained_on(folder, options, tmp_path, monkeypatch):
    score_by_share(monkeypatch, {0.0: 0.1, 0.25: 0.2, 0.5: 0.1, 0.75: 0.1, 1.0: 0.1})
    for name in ("cell0", "cell1", "cell2"):
        for ending in (".png", "_label.tiff"):
            shutil.copy(folder / f"{name}{ending}", folder / f"{name}_copy{ending}")
    tune(folder, tmp_path / "out.safetensors", replace(options, hold_out=0.1, steps=1))
    used = read_table(tmp_path / "out.run" / "table.csv")
    splits = {split: {each.digest for each in used if each.split == split} for split in SPLITS}
    assert [len(splits[split]) for split in SPLITS] == [2, 1]
    assert not splits["train"] & splits["val"]


@pytest.mark.parametrize("hold_out", [0.1, 0.4])
def test_held_out_image_has_a_cell_that_is_scored(folder, options, tmp_path, monkeypatch, hold_out):
    score_by_share(monkeypatch, {0.0: 0.1, 0.25: 0.2, 0.5: 0.1, 0.75: 0.1, 1.0: 0.1})
    at_the_border = np.zeros((80, 80), np.uint16)
    at_the_border[:30, :30], at_the_border[60:] = 1, 2
    for name in ("cell0", "cell1"):
        tifffile.imwrite(folder / f"{name}_label.tiff", at_the_border)
    tune(folder, tmp_path / "out.safetensors", replace(options, hold_out=hold_out, steps=1))
    used = read_table(tmp_path / "out.run" / "table.csv")
    assert [each.image_id for each in used if each.split == "val"] == ["cell2"]
    tifffile.imwrite(folder / "cell2_label.tiff", at_the_border)
    with pytest.raises(UsageError, match="found no image with a cell away from the border"):
        tune(folder, tmp_path / "other.safetensors", options)


@pytest.mark.parametrize(
    "roles", [("public",) * 3, ("target", "target", "public"), ("public", "target", "target")]
)
def test_labelled_images_are_tuned_on_whatever_role_their_manifest_gives(
    folder, options, tmp_path, monkeypatch, roles, caplog
):
    caplog.set_level("INFO", "mediar_infer")
    score_by_share(monkeypatch, {0.0: 0.1, 0.25: 0.2, 0.5: 0.1, 0.75: 0.1, 1.0: 0.1})
    make_record(folder, "seen", role="tuning")
    lines = ["id,image,label,role,split"]
    lines += [
        f"cell{i},cell{i}.png,cell{i}_label.tiff,{role},{'val' if i == 2 else ''}"
        for i, role in enumerate(roles)
    ]
    (folder / "manifest.csv").write_text("\n".join([*lines, "seen,seen.png,,tuning,\n"]))
    tune(folder, tmp_path / "out.safetensors", replace(options, hold_out=0, steps=1))
    used = read_table(tmp_path / "out.run" / "table.csv")
    assert [(each.image_id, each.role, each.split) for each in used] == [
        ("cell0", "target", "train"),
        ("cell1", "target", "train"),
        ("cell2", "target", "val"),
    ]
    assert "2 images to train on, held out: cell2" in caplog.text
    assert "1 of 4 images have no labels in their role; they are not used" in caplog.text


def test_images_of_a_role_without_labels_are_not_counted(folder, options, tmp_path):
    lines = ["id,image,label,role", "cell0,cell0.png,cell0_label.tiff,target"]
    lines += [f"cell{i},cell{i}.png,,unlabelled" for i in (1, 2)]
    (folder / "manifest.csv").write_text("\n".join(lines))
    with pytest.raises(UsageError, match="found 1 usable labelled images, expected at least"):
        tune(folder, tmp_path / "out.safetensors", options)


def test_manifest_that_holds_out_every_image_is_refused(folder, options, tmp_path):
    lines = ["id,image,label,split"]
    lines += [f"cell{i},cell{i}.png,cell{i}_label.tiff,val" for i in range(3)]
    (folder / "manifest.csv").write_text("\n".join(lines))
    with pytest.raises(UsageError, match=r"mine: found 3 images, all of them held out \(split val"):
        tune(folder, tmp_path / "out.safetensors", options)


def test_one_image_is_too_few(options, tmp_path):
    make_record(tmp_path / "mine", "cell")
    for _ in range(2):
        with pytest.raises(UsageError, match="found 1 usable labelled images, expected at least"):
            tune(tmp_path / "mine", tmp_path / "out.safetensors", options)
        for ending in (".png", "_label.tiff"):  # a copy is no second image
            shutil.copy(tmp_path / f"mine/cell{ending}", tmp_path / f"mine/copy{ending}")


def test_output_is_checked_before_anything_is_computed(options, tmp_path):
    (tmp_path / "out.safetensors").write_bytes(b"")
    with pytest.raises(CheckpointError, match="exists already"):
        tune(tmp_path / "none", tmp_path / "out.safetensors", options)
