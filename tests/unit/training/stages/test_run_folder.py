"""Files of a run: complete or as they were."""

import json
import resource
from contextlib import contextmanager

import pytest
import torch
from small_runs import make_recipe

from mediar_infer.errors import CheckpointError, OutputError, UsageError
from mediar_infer.training.stages.run_folder import CsvLog, StageFolder, check_same

DESCRIPTION = {"stage": {"steps": 3}, "seed": 1}


def make_content(value, size=10):
    return {"description": DESCRIPTION, "model": torch.full((size,), value)}


@contextmanager
def small_disk():
    """Files of this process cannot grow beyond 64 KiB; not for longer, as its log may be one."""
    old = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16, old[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, old)


def test_full_disk_keeps_the_previous_checkpoint(tmp_path):
    folder = StageFolder(tmp_path / "stage")
    folder.save_checkpoint(make_content(1.0))
    with small_disk(), pytest.raises(OutputError, match=r"checkpoint\.pt: cannot be written"):
        folder.save_checkpoint(make_content(2.0, size=1 << 20))
    content = folder.load_checkpoint(DESCRIPTION)
    assert torch.equal(content["model"], torch.full((10,), 1.0))
    assert [path.name for path in folder.path.iterdir()] == ["checkpoint.pt"]


def test_log_on_a_full_disk_is_an_error_that_names_it(tmp_path):
    log = CsvLog(tmp_path / "log.csv", ["step"])
    log.add(["x" * (1 << 17)])
    with small_disk(), pytest.raises(OutputError, match=r"log\.csv: cannot be written"):
        log.flush()


def test_logs_are_cut_back_to_the_checkpoint(tmp_path):
    folder = StageFolder(tmp_path)
    log = CsvLog(folder.log_path, ["step"])
    log.add([1])
    log.flush()
    folder.save_checkpoint(make_content(1.0))
    log.add([2])
    log.flush()
    folder.validation_path.write_text("step\n2\n")
    folder.load_checkpoint(DESCRIPTION)
    assert folder.log_path.read_text() == "step\n1\n"
    assert folder.validation_path.read_text() == ""


def test_checkpoint_of_other_settings_is_refused_by_the_name_of_the_setting(tmp_path):
    folder = StageFolder(tmp_path)
    folder.save_checkpoint(make_content(1.0))
    with pytest.raises(UsageError, match=r"stage\.steps was 3, now 4; seed was 1, now None"):
        folder.load_checkpoint({"stage": {"steps": 4}})


def test_damaged_checkpoint_is_named(tmp_path):
    folder = StageFolder(tmp_path)
    folder.save_checkpoint(make_content(1.0))
    folder.checkpoint_path.write_bytes(folder.checkpoint_path.read_bytes()[:200])
    with pytest.raises(CheckpointError, match=r"checkpoint\.pt: cannot be read"):
        folder.load_checkpoint(DESCRIPTION)


def test_leftovers_of_a_killed_process_are_removed(tmp_path):
    folder = StageFolder(tmp_path)
    part = tmp_path / ".checkpoint.pt.123.part"
    part.write_bytes(b"half")
    folder.log_path.write_text("step\n1\n")
    folder.remove_leftovers()
    assert list(tmp_path.iterdir()) == []


def test_same_descriptions_pass(tmp_path):
    check_same(tmp_path, DESCRIPTION, dict(DESCRIPTION))


def test_log_that_cannot_be_removed_is_an_output_error(tmp_path):
    folder = StageFolder(tmp_path / "stage")
    folder.log_path.mkdir(parents=True)  # no right is needed to be refused, for root either
    with pytest.raises(OutputError, match=r"log\.csv: cannot be removed"):
        folder.remove_leftovers()


def test_settings_that_an_earlier_version_did_not_know_count_as_the_defaults(tmp_path):
    plain = make_recipe().to_plain()
    asked = {"model": plain["model"], "stage": plain["stages"][0], "seed": 1}
    found = json.loads(json.dumps(asked))
    del found["stage"]["flow_weight"], found["stage"]["augmentation"]["mirror_probability"]
    check_same(tmp_path, found, asked)
    asked["stage"]["flow_weight"] = 0.25
    with pytest.raises(UsageError, match=r"stage\.flow_weight was 0\.5, now 0\.25"):
        check_same(tmp_path, found, asked)
