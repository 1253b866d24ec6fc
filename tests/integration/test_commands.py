"""The other commands: what they print, write and return."""

import csv
import errno
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from fakes import TINY
from folder_helpers import (
    ROOT,
    latest_records,
    names_of,
    slide,
    subprocess_environment,
    write_image,
)
from safetensors.torch import load_file

from mediar_infer import __version__, cli
from mediar_infer.commands import demo as demo_command
from mediar_infer.commands.info import count_multiply_adds
from mediar_infer.labels.files import write_labels
from mediar_infer.network.architecture import ENCODERS, Architecture
from mediar_infer.network.checkpoints import load_checkpoint, save_weights
from mediar_infer.network.graphs import graph_name
from mediar_infer.network.model import MediarFormer
from mediar_infer.network.weight_files import (
    ListedWeights,
    compute_digest,
    read_weights_manifest,
    write_weights_manifest,
)


def _run(*arguments):
    return cli.main([str(argument) for argument in arguments])


@pytest.mark.parametrize("arguments", [(), ("segment",), ("weights",), ("evaluate", "a")])
def test_wrong_use_ends_with_two(arguments, capsys):
    with pytest.raises(SystemExit) as stopped:
        _run(*arguments)
    assert stopped.value.code == 2
    assert "usage: mediar-infer" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "usage", "message"),
    [
        ("predict --cellsize 30", "predict", "--cellsize 30; did you mean --cell-size?"),
        ("predict --cell-sise=30", "predict", "--cell-sise=30; did you mean --cell-size?"),
        ("predict --resum3 --tabel a", "predict",
         "--resum3 --tabel a; did you mean --resume --table?"),
        ("predict --cellsize 3 --cellsise 4", "predict",
         "--cellsize 3 --cellsise 4; did you mean --cell-size?"),
        ("predict --colour", "predict", "--colour"),
        ("predict images", "predict", "images"),
        ("weights verify --frobnicate", "weights verify", "--frobnicate"),
        ("--quiet predict -i images", "", "--quiet"),
    ],
)  # fmt: skip
def test_wrong_option_is_named_below_the_usage_of_its_command(arguments, usage, message, capsys):
    with pytest.raises(SystemExit) as stopped:
        _run(*arguments.split())
    assert stopped.value.code == 2
    out, err = capsys.readouterr()
    program = f"mediar-infer {usage}".strip()
    assert out == ""
    assert err.startswith(f"usage: {program} [-h]")
    assert err.splitlines()[-1] == f"{program}: error: unrecognized arguments: {message}"


def test_help_lists_every_command(capsys):
    with pytest.raises(SystemExit) as stopped:
        _run("--help")
    assert stopped.value.code == 0
    out = capsys.readouterr().out
    for command in ("predict", "evaluate", "challenge", "submission", "weights", "info", "demo"):
        assert re.search(rf"^ +{command}\b", out, re.MULTILINE)


@pytest.mark.parametrize("command", [(), ("predict",), ("evaluate",)])
def test_version_is_printed(command, capsys):
    with pytest.raises(SystemExit):
        _run(*command, "--version")
    assert capsys.readouterr().out == f"mediar-infer {__version__}\n"


def test_info_shows_machine_versions_and_models(weights_dir, capsys):
    assert _run("info", "--weights", weights_dir) == 0
    out = capsys.readouterr().out
    for name in ("platform", "device", "memory", "versions", "CUDA"):
        assert re.search(rf"^{name} +\S", out, re.MULTILINE)
    n_parameters = sum(tensor.numel() for tensor in MediarFormer(TINY).parameters())
    assert len(re.findall(rf"from_phase[12]\.safetensors .*{n_parameters / 1e6:.2f} M", out)) == 2


def test_info_without_weights_says_so_and_ends_with_one(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("MEDIAR_WEIGHTS", str(tmp_path))
    assert _run("info") == 1
    assert re.search(r"^model +found no weights in .*--weights DIR", capsys.readouterr().out, re.M)


def test_full_size_network_has_the_size_of_the_paper():
    architecture = Architecture(*ENCODERS["mit_b5"])
    with torch.device("meta"):
        model = MediarFormer(architecture)
    assert sum(p.numel() for p in model.parameters()) / 1e6 == pytest.approx(121.30, abs=0.01)
    assert count_multiply_adds(architecture) / 1e9 == pytest.approx(204.26, abs=0.01)


def test_weights_list_and_verify_name_each_model(weights_dir, capsys):
    assert _run("weights", "list", weights_dir) == 0
    listed = capsys.readouterr().out
    assert _run("weights", "verify", weights_dir) == 0
    verified = capsys.readouterr().out
    for name in ("from_phase1.safetensors", "from_phase2.safetensors"):
        assert re.search(rf"{name}  custom, .*SHA-256 {compute_digest(weights_dir / name)}", listed)
        assert re.search(
            rf"{name}  .*\n  ok: all entries present and finite, no manifest", verified
        )


def test_default_weights_come_from_the_environment(weights_dir, monkeypatch, capsys):
    monkeypatch.setenv("MEDIAR_WEIGHTS", str(weights_dir))
    assert _run("weights", "verify") == 0
    assert str(weights_dir) in capsys.readouterr().out


def test_converted_weights_are_the_same_numbers_under_a_manifest(weights_dir, tmp_path, capsys):
    published, converted = tmp_path / "published", tmp_path / "converted"
    published.mkdir()
    for name in ("from_phase1", "from_phase2"):
        entries = load_file(weights_dir / f"{name}.safetensors")
        torch.save(
            {n: t.float() if t.is_floating_point() else t for n, t in entries.items()},
            published / f"{name}.pth",
        )
    assert _run("weights", "convert", published, "-o", converted) == 0
    files = ["from_phase1.safetensors", "from_phase2.safetensors", "manifest.json"]
    graph = graph_name(TINY, 512)
    assert names_of(converted) == sorted([*files, graph, graph.replace(".xml", ".bin")])
    for name in files[:2]:
        assert read_weights_manifest(converted)[name].digest == compute_digest(converted / name)
        was, now = (load_checkpoint(folder / name) for folder in (weights_dir, converted))
        assert all(torch.equal(was.state_dict[key], now.state_dict[key]) for key in was.state_dict)
    capsys.readouterr()
    assert _run("weights", "verify", converted) == 0
    assert capsys.readouterr().out.count("checksum of the manifest") == 2
    assert _run("weights", "convert", published, "-o", converted) == 2
    assert "exists already; remove it or choose another folder" in capsys.readouterr().err


def test_no_graph_is_made_of_networks_whose_graph_the_package_has(
    weights_dir, tmp_path, monkeypatch
):
    package, converted = tmp_path / "package", tmp_path / "converted"
    package.mkdir()
    (package / graph_name(TINY, 512)).touch()
    monkeypatch.setattr("mediar_infer.commands.weights.PUBLISHED_GRAPHS", package)
    source = weights_dir / "from_phase1.safetensors"
    assert _run("weights", "convert", source, "-o", converted) == 0
    assert names_of(converted) == ["from_phase1.safetensors", "manifest.json"]


def test_convert_into_a_file_is_an_error_that_names_it(weights_dir, tmp_path, capsys):
    (tmp_path / "taken").write_text("mine")
    source = weights_dir / "from_phase1.safetensors"
    assert _run("weights", "convert", source, "-o", tmp_path / "taken") == 1
    assert re.search(r"taken/from_phase1\S+: cannot be written", capsys.readouterr().err)


def test_verify_finds_a_changed_byte(weights_dir, tmp_path, capsys):
    assert _run("weights", "convert", weights_dir, "-o", tmp_path) == 0
    path = tmp_path / "from_phase2.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    assert _run("weights", "verify", tmp_path) == 2
    assert re.search(r"from_phase2\S+: found SHA-256 .* expected", capsys.readouterr().err)


@pytest.mark.usefixtures("perfect_network")
def test_evaluate_scores_what_predict_wrote(predict, tmp_path, capsys):
    for seed, name in enumerate(("a", "b")):
        image, true = slide(seed)
        write_image(tmp_path / "in" / f"{name}.png", image)
        write_labels(tmp_path / "true" / f"{name}_label.tiff", [true], height=120, width=150)
    assert predict(tmp_path / "in", tmp_path / "out", "--quiet") == 0
    arguments = ("evaluate", tmp_path / "out", tmp_path / "true", "-o", tmp_path / "scores")
    assert _run(*arguments) == 0
    assert names_of(tmp_path / "scores") == ["scores.csv", "scores.png", "summary.csv"]
    with (tmp_path / "scores" / "scores.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["image"], row["threshold"]) for row in rows[:2]] == [("a", "0.5"), ("a", "0.6")]
    assert {row["f1"] for row in rows} == {"1.0"}
    assert "2 images, F1 at IoU 0.5: mean 1.0000" in capsys.readouterr().err


def test_scored_images_that_are_in_no_group_are_named(tmp_path, capsys):
    labels = slide()[1]
    for name in ("a", "b"):
        write_labels(tmp_path / "labels" / f"{name}_label.tiff", [labels], height=120, width=150)
    (tmp_path / "images.csv").write_text("id,kind\na,nuclei\nb.png,nuclei\n")
    arguments = ("evaluate", tmp_path / "labels", tmp_path / "labels", "-o", tmp_path / "scores")
    assert _run(*arguments, "--manifest", tmp_path / "images.csv", "--group", "kind") == 0
    err = capsys.readouterr().err
    assert "images.csv: found no row for 1 of 2 scored images (b), which are in no group" in err
    assert "nuclei: 1 images" in err
    (tmp_path / "images.csv").write_text("id,kind\na,nuclei\nb,nuclei\n")
    assert _run(*arguments, "--manifest", tmp_path / "images.csv", "--group", "kind") == 0
    assert "found no row" not in capsys.readouterr().err


def test_bad_data_ends_with_one_and_wrong_use_with_two(tmp_path, capsys):
    (tmp_path / "images.csv").write_text("name\na\n")
    arguments = ("evaluate", tmp_path, tmp_path, "-o", tmp_path / "scores", "--manifest")
    assert _run(*arguments, tmp_path / "images.csv") == 1
    assert "images.csv: found the columns name, expected a column 'id'" in capsys.readouterr().err
    assert _run(*arguments, tmp_path / "absent.csv") == 2
    assert (
        "absent.csv: found no such file, expected a CSV table; check --manifest"
        in capsys.readouterr().err
    )


def test_evaluate_of_a_missing_folder_ends_with_two(tmp_path, capsys):
    assert _run("evaluate", tmp_path / "no", tmp_path, "-o", tmp_path / "scores") == 2
    assert "no: found no folder, expected one of NAME_label.tiff files" in capsys.readouterr().err


def test_demo_segments_real_and_generated_images_and_says_where(weights_dir, tmp_path, capsys):
    options = ("--size", "96", "--plan", "fast", "--threads", "1", "--weights", weights_dir)
    assert _run("demo", "-o", tmp_path / "demo", *options) == 0
    out, err = capsys.readouterr()
    assert "%|" not in err
    images, results = tmp_path / "demo" / "images", tmp_path / "demo" / "results"
    expected = sorted((*demo_command.REAL_IMAGES, *demo_command.SCENES))
    assert names_of(images) == expected
    records = latest_records(results)
    assert sorted(records) == expected
    for name, record in records.items():
        assert record["status"] == "done"
        assert record["warnings"] == []
        assert re.search(rf"^{re.escape(name)} .* done$", out, re.MULTILINE)
        assert (results / "overlays" / f"{name.split('.')[0]}_label.png").exists()
        is_real = name in demo_command.REAL_IMAGES
        assert (record["height"] == 96) != is_real
    assert records["ihc.png"]["width"] == 512
    assert records["nuclei_16bit.tif"]["dtype"] == "uint16"
    assert re.search(rf"^overlays +{re.escape(str(results))}/overlays", out, re.MULTILINE)
    assert re.search(rf"^labels +{re.escape(str(results))}/\*_label\.tiff$", out, re.MULTILINE)
    for name in demo_command.SCENES:
        # The table of the run and that of the scores count the same cells.
        (n_found,) = re.findall(rf"^{re.escape(name)} +\d+ +(\d+) +\d\.\d+$", out, re.MULTILINE)
        assert int(n_found) == records[name]["n_cells"]


def test_demo_scores_against_the_labels_it_wrote(tmp_path):
    demo_command.write_images(tmp_path, 96)
    (tmp_path / "truth").rename(tmp_path / "results")
    demo_command.write_images(tmp_path, 96)
    table = demo_command.score_table(tmp_path, list(demo_command.SCENES))
    *lines, note = table.splitlines()[1:]
    assert note == "Cells at the border do not count in F1, as in the challenge."
    rows = [line.split() for line in lines]
    assert [row[0] for row in rows] == list(demo_command.SCENES)
    for _, n_true, n_found, f1 in rows:
        assert int(n_true) == int(n_found) > 0
        assert float(f1) == 1


def test_demo_too_small_for_cells_ends_with_two(tmp_path, capsys):
    assert _run("demo", "-o", tmp_path / "demo", "--size", "8") == 2
    assert "found --size 8, expected 64 or more" in capsys.readouterr().err
    assert not (tmp_path / "demo").exists()


def test_module_and_script_give_the_exit_code_of_the_command(tmp_path):
    command = [sys.executable, "-m", "mediar_infer", "predict", "-i", tmp_path / "no"]
    done = subprocess.run(
        command, cwd=ROOT, env=subprocess_environment(), capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith("ERROR ")
    assert len(done.stderr.splitlines()) == 1


def test_convert_adds_to_the_manifest_of_a_folder(weights_dir, tmp_path):
    first, second = (weights_dir / f"from_phase{k}.safetensors" for k in (1, 2))
    for path in (first, second):
        assert _run("weights", "convert", path, "-o", tmp_path) == 0
    assert read_weights_manifest(tmp_path) == {
        path.name: ListedWeights(compute_digest(tmp_path / path.name)) for path in (first, second)
    }


def test_convert_keeps_what_the_manifest_tells(weights_dir, tmp_path, capsys):
    name = "from_phase1.safetensors"
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / name).write_bytes((weights_dir / name).read_bytes())
    listed = ListedWeights(compute_digest(weights_dir / name), 31.5, flow_threshold=0.55)
    write_weights_manifest(tmp_path / "in", {name: listed})
    assert _run("weights", "convert", tmp_path / "in" / name, "-o", tmp_path / "out") == 0
    capsys.readouterr()
    assert _run("weights", "list", tmp_path / "out") == 0
    assert "\n  manifest: cells of 31.5 px, flow threshold 0.55\n" in capsys.readouterr().out
    converted = read_weights_manifest(tmp_path / "out")[name]
    assert (converted.cell_diameter, converted.flow_threshold) == (31.5, 0.55)


def test_convert_writes_nothing_if_one_target_exists(weights_dir, tmp_path, capsys):
    (tmp_path / "from_phase2.safetensors").write_bytes(b"mine")
    assert _run("weights", "convert", weights_dir, "-o", tmp_path) == 2
    assert "from_phase2.safetensors: exists already" in capsys.readouterr().err
    assert names_of(tmp_path) == ["from_phase2.safetensors"]


def test_convert_refuses_a_third_model_and_writes_nothing(weights_dir, tmp_path, capsys):
    assert _run("weights", "convert", weights_dir, "-o", tmp_path / "out") == 0
    third = tmp_path / "third.safetensors"
    third.write_bytes((weights_dir / "from_phase1.safetensors").read_bytes())
    before = names_of(tmp_path / "out")
    assert _run("weights", "convert", third, "-o", tmp_path / "out") == 2
    assert "would list 3 models (from_phase1.safetensors, " in capsys.readouterr().err
    assert names_of(tmp_path / "out") == before


def test_convert_refuses_two_files_of_a_folder_that_would_become_one(weights_dir, tmp_path, capsys):
    state = load_file(weights_dir / "from_phase1.safetensors")
    (tmp_path / "in").mkdir()
    save_weights(state, tmp_path / "in" / "a.safetensors")
    torch.save(state, tmp_path / "in" / "a.pth")
    assert _run("weights", "convert", tmp_path / "in", "-o", tmp_path / "out") == 2
    assert "found two files that would both become" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_folder_of_weights_that_cannot_be_listed_is_named(tmp_path, monkeypatch, capsys):
    def refuse(_):
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(Path, "iterdir", refuse)
    assert _run("weights", "list", tmp_path) == 2
    assert f"{tmp_path}: cannot be listed (Permission denied)" in capsys.readouterr().err
    monkeypatch.setenv("MEDIAR_WEIGHTS", str(tmp_path))
    assert _run("weights", "list") == 2
    assert f"{tmp_path}: cannot be listed (Permission denied)" in capsys.readouterr().err


def test_folder_without_weights_is_reported_what_to_hold(tmp_path, capsys):
    assert _run("weights", "list", tmp_path) == 2
    assert re.search(
        r"found 0 weight files, expected one or two \(\.safetensors, ", capsys.readouterr().err
    )


@pytest.mark.parametrize("name", ["cpu:3", "cpu:0", "mps:1"])
def test_numbered_devices_other_than_cuda_are_wrong_use(tmp_path, weights_dir, capsys, name):
    write_image(tmp_path / "a.png")
    options = ("-i", tmp_path, "-o", tmp_path / "out", "--weights", weights_dir, "--device", name)
    assert _run("predict", *options) == 2
    assert f"found device '{name}', expected auto, cpu, cuda" in capsys.readouterr().err


_LEAVE = """
import atexit, sys
from mediar_infer.cli import run_process
atexit.register(print, "taken apart")
def command():
    raise SystemExit(int(sys.argv[1]))
run_process(command)
"""


_LEAVE_WITH_POOL = """
import atexit, sys
from concurrent.futures import ThreadPoolExecutor
from mediar_infer.cli import run_process
from mediar_infer.process import POOL_PREFIX, unfreed
class Network:
    def __del__(self):
        print("freed")
def command():
    pool = ThreadPoolExecutor(1, thread_name_prefix=sys.argv[1].format(POOL_PREFIX))
    pool.submit(print, "worked").result()
    atexit.register(print, "taken apart", pool)
    unfreed.keep(Network())
    return 0
run_process(command)
"""


@pytest.mark.parametrize(
    ("name", "is_left"), [("{0}labels", True), ("tqdm_monitor", True), ("labels", False)]
)
def test_process_is_left_at_once_while_pools_of_its_own_wait(name, is_left):
    done = subprocess.run(
        [sys.executable, "-c", _LEAVE_WITH_POOL, name], capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines()[0] == "worked"
    assert ("freed" in done.stdout, "taken apart" in done.stdout) == (not is_left, not is_left)


@pytest.mark.parametrize(("code", "shown"), [(143, ""), (130, ""), (2, "taken apart\n")])
def test_stopped_process_is_left_without_taking_libraries_apart(code, shown):
    done = subprocess.run(
        [sys.executable, "-c", _LEAVE, str(code)], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (code, shown, "")
