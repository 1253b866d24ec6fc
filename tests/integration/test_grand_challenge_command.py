"""Jobs of grand-challenge.org as processes: labels of ``predict``, clear errors, a clean stderr."""

import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import SimpleITK
import tifffile
from folder_helpers import ROOT, make_read_only, slide, subprocess_environment

from mediar_infer import cli

RESULT = "images"


def _load_trial():
    spec = importlib.util.spec_from_file_location("gc_trial", ROOT / ".ci" / "gc_trial.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


trial = _load_trial()


def run_process(*arguments, **variables):
    return subprocess.run(
        [sys.executable, *map(str, arguments)], cwd=ROOT, capture_output=True, text=True,
        env=subprocess_environment(**variables), check=False,
    )  # fmt: skip


def run_job(folder, *options, **variables):
    """Run the command on ``folder/input``; ``folder/output`` gets the labels."""
    arguments = ["-i", folder / "input", "-o", folder / "output", "--plan", "fast"]
    return run_process("-m", "mediar_infer", "grand-challenge", *arguments, *options, **variables)


@pytest.fixture
def job(tmp_path):
    """A job with a generated slide as TIFF."""
    tifffile.imwrite(tmp_path / "slide.tif", slide()[0])
    trial.write_job(tmp_path / "job", tmp_path / "slide.tif")
    return tmp_path / "job"


@pytest.fixture
def run_here(weights_dir, job, perfect_network):
    """Call the command in this process, with a network that knows the slides."""

    def call(*options, weights=("--weights", weights_dir)):
        arguments = ["grand-challenge", "-i", job / "input", "-o", job / "output", *weights]
        return cli.main([*map(str, arguments), *map(str, options)])

    return call


def files_of(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def image_of(job):
    [image] = (path for path in (job / "input").iterdir() if path.name != "inputs.json")
    return image


def test_jobs_give_the_labels_of_predict_and_a_clean_stderr(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["gc_trial.py", "make", str(tmp_path)])
    assert trial.main() == 0
    predicted = run_process(
        "predict.py", "-i", tmp_path / "predict" / "inputs",
        "-o", tmp_path / "predict" / "outputs", "--plan", "fast", "--threads", "1",
    )  # fmt: skip
    assert predicted.returncode == 0, predicted.stderr
    for name, file in (("tiff", "tiff.tif"), ("mha", "mha.mha")):
        done = run_job(tmp_path / name, "--threads", "1")
        assert (done.returncode, done.stderr) == (0, "")
        record = json.loads(done.stdout.splitlines()[-1])
        assert (record["file"], record["status"]) == (file, "done")
        assert record["within_tolerance"] in (True, False)
        assert record["n_cells"] > 0
    monkeypatch.setattr(sys, "argv", ["gc_trial.py", "compare", str(tmp_path)])
    assert (trial.main(), capsys.readouterr().out) == (0, "labels are those of predict\n")
    tifffile.imwrite(tmp_path / "tiff" / "output" / RESULT / "output.tif", np.zeros((9, 9), "u2"))
    assert trial.main() == 1
    assert "differs from" in capsys.readouterr().out


def test_labels_are_those_of_the_slide_in_either_format(run_here, job):
    assert run_here() == 0
    assert run_here("--format", "mha") == 0
    assert files_of(job / "output") == [f"{RESULT}/output.mha", f"{RESULT}/output.tif"]
    labels = tifffile.imread(job / "output" / RESULT / "output.tif")
    assert labels.max() == slide()[1].max() > 0
    image = SimpleITK.ReadImage(str(job / "output" / RESULT / "output.mha"))
    np.testing.assert_array_equal(SimpleITK.GetArrayFromImage(image), labels)


def test_mha_labels_of_a_tiff_keep_its_pixel_size(run_here, job):
    image_of(job).unlink()
    tifffile.imwrite(
        job / "input" / "a.tif", slide()[0], resolution=(20000, 40000), resolutionunit="CENTIMETER"
    )
    assert run_here("--format", "mha") == 0
    labels = SimpleITK.ReadImage(str(job / "output" / RESULT / "output.mha"))
    assert labels.GetSpacing() == pytest.approx((0.0005, 0.00025))


def test_all_scenes_are_refused_because_a_job_has_one_result(run_here, job, capfd):
    assert run_here("--scene", "all") == 2
    assert "found --scene all, expected a number" in capfd.readouterr().err
    assert not (job / "output").exists() or files_of(job / "output") == []


def test_lack_of_a_pixel_size_is_logged(run_here, capfd):
    assert run_here() == 0
    assert "1 of 1 images state no pixel size" in capfd.readouterr().out


def test_plane_of_an_mha_stack_keeps_its_place(run_here, job):
    image_of(job).unlink()
    stack = SimpleITK.GetImageFromArray(np.stack([slide()[0][..., 0]] * 3))
    stack.SetSpacing((0.5, 0.5, 2.0))
    SimpleITK.WriteImage(stack, str(job / "input" / "a.mha"))
    assert run_here() == 1
    assert run_here("--plane", "2") == 0
    labels = SimpleITK.ReadImage(str(job / "output" / RESULT / "output.mha"))
    assert (labels.GetSize(), labels.GetOrigin()) == ((150, 120, 1), (0.0, 0.0, 4.0))


def test_sockets_are_chosen_by_option_variable_or_table(run_here, job, monkeypatch, tmp_path):
    text = (job / "input" / "inputs.json").read_text()
    (job / "input" / "inputs.json").write_text(text.replace(f'"{trial.SLUG}"', '"my-cells"'))
    assert run_here() == 1
    assert run_here("--image-socket", "my-cells", "--result-socket", "by-option") == 0
    monkeypatch.setenv("MEDIAR_IMAGE_SOCKET", "my-cells")
    monkeypatch.setenv("MEDIAR_RESULT_SOCKET", "by/variable")
    assert run_here() == 0
    monkeypatch.delenv("MEDIAR_IMAGE_SOCKET")
    monkeypatch.setenv("MEDIAR_RESULT_SOCKET", "")
    (tmp_path / "sockets.toml").write_text(
        '[[interface]]\nimage = "my-cells"\nresult = "by-table"\n'
    )
    assert run_here("--model", tmp_path) == 0
    monkeypatch.setenv("MEDIAR_SOCKETS", str(tmp_path / "none.toml"))
    assert run_here("--model", tmp_path) == 2
    assert files_of(job / "output") == [
        "by/variable/output.tif", "images/by-option/output.tif", "images/by-table/output.tif",
    ]  # fmt: skip


@pytest.fixture
def model_dir(weights_dir, tmp_path):
    shutil.copytree(weights_dir, tmp_path / "model")
    return tmp_path / "model"


def test_weights_of_the_model_folder_count_unless_others_are_named(
    run_here, model_dir, weights_dir, monkeypatch, capfd
):
    monkeypatch.delenv("MEDIAR_WEIGHTS", raising=False)
    assert run_here("--model", model_dir, weights=()) == 0
    assert f"weights from {model_dir}\n" in capfd.readouterr().out
    monkeypatch.setenv("MEDIAR_WEIGHTS", str(weights_dir))
    assert run_here("--model", model_dir, weights=()) == 0
    assert f"weights from {weights_dir}\n" in capfd.readouterr().out
    monkeypatch.setenv("MEDIAR_WEIGHTS", "nowhere")
    assert run_here("--model", model_dir) == 0
    assert f"weights from {weights_dir}\n" in capfd.readouterr().out


def test_weights_in_a_folder_of_the_model_folder_are_warned_of(
    run_here, model_dir, monkeypatch, capfd
):
    monkeypatch.delenv("MEDIAR_WEIGHTS", raising=False)
    assert run_here("--model", model_dir.parent, weights=()) == 0
    out, err = capfd.readouterr()
    assert "found no weight file but job, model, slide.tif, expected weights directly in" in out
    assert err == ""


def test_model_folder_that_may_not_be_entered_is_warned_of(
    run_here, tmp_path, monkeypatch, capfd, weights_dir
):
    locked, access = tmp_path / "locked", os.access
    locked.mkdir(mode=0o700)
    (locked / "sockets.toml").write_text("not a table")
    isfile = os.path.isfile
    # What the system says to users other than root, as whom tests may run.
    monkeypatch.setattr(os, "access", lambda path, mode: path != locked and access(path, mode))
    monkeypatch.setattr(
        os.path, "isfile", lambda path: locked not in Path(path).parents and isfile(path)
    )
    assert run_here("--model", locked) == 0
    out, err = capfd.readouterr()
    assert f"{locked}: found a folder that may not be read, expected one with weights or" in out
    assert f"using weights from {weights_dir}" in out
    assert err == ""


@pytest.mark.skipif(os.geteuid() == 0, reason="root may enter every folder")
def test_model_folder_of_others_stops_no_job(run_here, tmp_path):
    (tmp_path / "locked").mkdir(mode=0)
    assert run_here("--model", tmp_path / "locked") == 0
    assert run_here("--model", tmp_path / "locked" / "model") == 0


def test_model_folder_of_no_possible_name_is_none(run_here, tmp_path):
    assert run_here("--model", tmp_path / ("x" * 300)) == 0


def break_json(job):
    (job / "input" / "inputs.json").write_text("[")


def remove_json(job):
    (job / "input" / "inputs.json").unlink()


def rename_socket(job):
    path = job / "input" / "inputs.json"
    path.write_text(path.read_text().replace(f'"{trial.SLUG}"', '"tissue"'))


def remove_image(job):
    image_of(job).unlink()


def add_image(job):
    shutil.copy(image_of(job), image_of(job).with_name("b.mha"))


def truncate_image(job):
    image_of(job).write_bytes(image_of(job).read_bytes()[:-5000])


def block_output(job):
    (job / "output" / "images").touch()


FAULTS = [
    (remove_json, r"inputs\.json: there is no such file"),
    (break_json, r"inputs\.json: found no JSON"),
    (rename_socket, "found the input sockets tissue, expected .*: generic-medical-image; "),
    (remove_image, r"found no image \(inputs\.json\)"),
    (add_image, r"found 2 images \(b\.mha, slide\.tif\)"),
    (truncate_image, r"slide\.tif: "),
    (block_output, r"output\.tif: cannot be written"),
]


@pytest.mark.parametrize(("break_job", "message"), FAULTS)
def test_fault_is_one_clear_line_on_stderr(run_here, job, capfd, break_job, message):
    break_job(job)
    assert run_here() == 1
    (line,) = capfd.readouterr().err.splitlines()
    assert line.startswith("ERROR ")
    assert re.search(message, line)
    assert files_of(job / "output") in ([], ["images"])


def test_read_only_output_is_one_clear_line_on_stderr(run_here, job, capfd, mount_tmpfs):
    output = mount_tmpfs("read_only", 2**20)
    make_read_only(output)
    assert run_here("--output", output) == 1
    (line,) = capfd.readouterr().err.splitlines()
    assert "output.tif: cannot be written (Read-only file system)" in line


def test_failed_job_removes_the_labels_of_an_earlier_one(run_here, job):
    assert run_here() == 0
    truncate_image(job)
    assert run_here() == 1
    assert files_of(job / "output") == []


def test_quiet_job_writes_nothing_but_labels(job, weights_dir):
    done = run_job(job, "--quiet", "--weights", weights_dir, "--threads", "1")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert files_of(job / "output") == [f"{RESULT}/output.tif"]
