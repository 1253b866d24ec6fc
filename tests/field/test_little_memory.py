"""An image that needs more memory than there is fails by name; the rest is done."""

import signal
import subprocess
import sys
from contextlib import nullcontext

import pytest
from folder_helpers import (
    ROOT,
    latest_records,
    names_of,
    noise,
    read_ledger,
    subprocess_environment,
    write_image,
)

from mediar_infer import image_work, process, segmenter
from mediar_infer.config import EngineConfig, MaskConfig
from mediar_infer.errors import ImageReadError
from mediar_infer.folder import image_task
from mediar_infer.folder.at_work import AT_WORK_NAME, AtWork
from mediar_infer.folder.parts import RunPart
from mediar_infer.images import limits

MIB = 2**20


@pytest.fixture
def inputs(tmp_path):
    """A small image, a larger one, and a small one."""
    for name, size in (("a.png", 30), ("b.png", 900), ("c.png", 40)):
        write_image(tmp_path / "in" / name, noise(size, size))
    return tmp_path / "in"


@pytest.mark.parametrize(
    ("module", "mib", "verb"), [(limits, 1 / 4, "decode at once"), (image_work, 6, "segment")]
)
@pytest.mark.usefixtures("perfect_network")
def test_image_that_cannot_fit_fails_by_name_and_the_rest_is_done(
    predict, inputs, tmp_path, monkeypatch, module, mib, verb
):
    monkeypatch.setattr(module, "available_memory_bytes", lambda: int(mib * MIB))
    monkeypatch.setattr(image_work, "_ROW_BYTES_PER_PIXEL", 0)
    assert predict(inputs, tmp_path / "out") == 1
    records = latest_records(tmp_path / "out")
    assert [records[f"{name}.png"]["status"] for name in "abc"] == ["done", "failed", "done"]
    assert records["b.png"]["error"].startswith("b.png: found 900 × 900 pixels that take")
    assert verb in records["b.png"]["error"]
    assert "the memory that is left to this process" in records["b.png"]["error"]


class _Sized:
    """An image of which only the size counts."""

    def __init__(self, height, width):
        self.name, self.height, self.width = "a.tif", height, width


@pytest.mark.parametrize(
    ("size", "config", "mib", "fits"),
    [
        # 2,000 rows are held for the released blocks, all of them for one piece.
        ((60_000, 40_000), EngineConfig(masks=MaskConfig(blocks="paper")), 4000, True),
        ((60_000, 40_000), EngineConfig(masks=MaskConfig(blocks="paper")), 2000, False),
        ((4000, 4000), EngineConfig(masks=MaskConfig(blocks="paper")), 360, False),
        # Blocks are square, also where the image is narrower.
        ((90_000, 300), EngineConfig(masks=MaskConfig(blocks="paper")), 80, False),
        # A time budget keeps a ring of rows per pass.
        ((6000, 100_000), EngineConfig(), 1000, True),
        ((6000, 100_000), EngineConfig(fit_budget=1.0), 1000, False),
        ((6000, 100_000), EngineConfig(fit_budget=1.0), 5000, True),
    ],
)
def test_memory_is_that_of_the_rows_that_are_held(monkeypatch, size, config, mib, fits):
    monkeypatch.setattr(image_work, "available_memory_bytes", lambda: mib * MIB)
    with nullcontext() if fits else pytest.raises(ImageReadError, match="MiB to segment"):
        image_work.check_memory(_Sized(*size), config, 2, 1.0)


def test_a_result_that_cannot_be_held_is_refused_before_the_network_runs(monkeypatch):
    monkeypatch.setattr(image_work, "available_memory_bytes", lambda: 31 * MIB)
    with pytest.raises(ImageReadError, match=r"at least 32 MiB .* or use predict"):
        segmenter.Segmenter.segment_source(None, _Sized(1024, 1024))


# What is left


def write_group(folder, files):
    folder.mkdir(parents=True)
    for name, text in files.items():
        (folder / name).write_text(text)


def test_limit_of_a_control_group_counts_less_what_is_in_use(tmp_path):
    root, listing = tmp_path / "cgroup", tmp_path / "listing"
    listing.write_text("0::/outer/inner\n")
    write_group(
        root / "outer",
        {"memory.max": "1000\n", "memory.current": "700\n", "memory.stat": "inactive_file 200\n"},
    )
    write_group(root / "outer" / "inner", {"memory.max": "max\n", "memory.current": "1\n"})
    assert list(process._cgroup_bounds(root, listing)) == [500]


def test_limit_of_the_first_version_is_read_too(tmp_path):
    root, listing = tmp_path / "cgroup", tmp_path / "listing"
    listing.write_text("5:cpu:/x\n4:memory:/not/seen/in/a/container\n")
    files = {"memory.limit_in_bytes": "900", "memory.usage_in_bytes": "400", "memory.stat": ""}
    write_group(root / "memory", files)
    assert list(process._cgroup_bounds(root, listing)) == [500]


def test_limit_of_address_space_counts():
    program = (
        "import resource\n"
        "from mediar_infer.process import available_memory_bytes\n"
        "resource.setrlimit(resource.RLIMIT_AS, (300 * 2**20, resource.RLIM_INFINITY))\n"
        "print(available_memory_bytes())"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, env=subprocess_environment(),
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert 0 < int(done.stdout) < 300 * MIB


def test_memory_of_this_machine_is_known():
    assert process.available_memory_bytes() > MIB


# A run that died


def die_at_work(folder, *names):
    """Let a process die while it is at work on some images."""
    program = (
        "import os, sys\n"
        "from pathlib import Path\n"
        "from mediar_infer.folder.at_work import AtWork\n"
        "at_work = AtWork(Path(sys.argv[1]))\n"
        "at_work.begin('a.png')\n"
        "at_work.end('a.png')\n"
        "for name in sys.argv[2:]:\n"
        "    at_work.begin(name)\n"
        "os.kill(os.getpid(), 9)"
    )
    done = subprocess.run([sys.executable, "-c", program, folder, *names], cwd=ROOT, check=False)
    assert done.returncode == -signal.SIGKILL


@pytest.mark.usefixtures("perfect_network")
def test_image_at_work_in_a_run_that_died_is_named_and_tried_last(
    predict, inputs, tmp_path, capsys
):
    out = tmp_path / "out"
    die_at_work(out, "b.png")
    assert predict(inputs, out, "--resume") == 0
    assert [entry["file"] for entry in read_ledger(out)] == ["a.png", "c.png", "b.png"]
    err = capsys.readouterr().err
    assert "b.png: an earlier run died while it was at work on this image" in err
    assert err.count("an earlier run died") == 1
    assert AT_WORK_NAME not in names_of(out)


@pytest.mark.usefixtures("perfect_network")
def test_images_at_work_together_are_tried_one_at_a_time(predict, inputs, tmp_path, monkeypatch):
    begun_ahead = []
    plain = image_task._begin_ahead

    def begin_ahead(image, *arguments):
        begun_ahead.append(image.name)
        return plain(image, *arguments)

    monkeypatch.setattr(image_task, "_begin_ahead", begin_ahead)
    die_at_work(tmp_path / "out", "a.png", "b.png")
    write_image(inputs / "d.png", noise(30, 30))
    assert predict(inputs, tmp_path / "out", "--resume") == 0
    assert begun_ahead == ["d.png"]


@pytest.mark.usefixtures("perfect_network")
def test_run_that_ends_leaves_no_notes_whatever_became_of_its_images(predict, inputs, tmp_path):
    (inputs / "b.png").write_bytes(b"")
    assert predict(inputs, tmp_path / "out") == 1
    assert AT_WORK_NAME not in names_of(tmp_path / "out")


def suspects_of(folder):
    """Images that earlier runs were at when they died; their notes are removed."""
    at_work = AtWork(folder)
    at_work.close()
    return at_work.suspects


def test_images_that_are_finished_are_not_suspects(tmp_path):
    die_at_work(tmp_path, "a.png", "c.png")
    assert suspects_of(tmp_path) == {"a.png", "c.png"}
    die_at_work(tmp_path, "a.png", "c.png")
    # The next run dies, too, before it comes to c.
    die_at_work(tmp_path, "d.png")
    assert suspects_of(tmp_path) == {"c.png", "d.png"}
    assert suspects_of(tmp_path) == set()


@pytest.mark.parametrize("text", ["", "no JSON\n", "[]\n", '{"file": 3}\n', "\u00e9\n"])
def test_damaged_notes_are_ignored(tmp_path, text):
    (tmp_path / AT_WORK_NAME).write_text(text)
    assert suspects_of(tmp_path) == set()
    assert names_of(tmp_path) == []


# A run that is alive


def test_images_of_a_living_run_are_not_suspects_and_its_notes_stay(tmp_path, caplog):
    living = AtWork(tmp_path)
    living.begin("a.png")
    notes = (tmp_path / AT_WORK_NAME).read_text()
    other = AtWork(tmp_path)
    assert other.suspects == set()
    assert f"{tmp_path}: another run is at work in this folder" in caplog.text
    other.begin("b.png")
    other.close()
    assert (tmp_path / AT_WORK_NAME).read_text() == notes
    living.close()
    assert names_of(tmp_path) == []


def test_of_two_runs_that_start_together_the_first_at_an_image_keeps_notes(tmp_path, caplog):
    runs = AtWork(tmp_path), AtWork(tmp_path)
    for run, name in zip(runs, ("a.png", "b.png"), strict=True):
        run.begin(name)
    assert caplog.text.count("another run is at work in this folder") == 1
    assert "a.png" in (notes := (tmp_path / AT_WORK_NAME).read_text())
    assert "b.png" not in notes
    for run in runs:
        run.close()
    assert names_of(tmp_path) == []


def test_parts_of_a_run_keep_notes_of_their_own(tmp_path, caplog):
    runs = [AtWork(tmp_path, RunPart(number, 2)) for number in (1, 2)]
    for run in runs:
        run.begin("a.png")
    assert names_of(tmp_path) == [".at-work.1of2.jsonl", ".at-work.2of2.jsonl"]
    assert caplog.text == ""
    for run in runs:
        run.close()


@pytest.mark.usefixtures("perfect_network")
def test_two_runs_in_one_folder_both_come_to_their_end(predict, inputs, tmp_path, capsys):
    living = AtWork(tmp_path / "out")
    living.begin("b.png")
    assert predict(inputs, tmp_path / "out", "--resume") == 0
    err = capsys.readouterr().err
    assert err.count("another run is at work in this folder") == 1
    assert "an earlier run died" not in err
    assert AT_WORK_NAME in names_of(tmp_path / "out")
    living.close()
