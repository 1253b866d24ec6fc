"""Work spread over a Dask cluster: same labels as in one process, also when a worker dies."""

import json
import os
import shutil
import subprocess
import sys
import threading
import time
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from czi_files import Tile, czi_bytes
from fakes import FunctionBackend
from folder_helpers import ROOT, latest_records, names_of, read_ledger, slide, write_image
from preload_perfect_network import perfect_from_pending
from slides import decode_scene

from mediar_infer import image_work
from mediar_infer.cluster import client, connection, spread
from mediar_infer.cluster import worker as cluster_worker
from mediar_infer.cluster.row_ranges import split_rows
from mediar_infer.cluster.worker import ClusterJob
from mediar_infer.config import EngineConfig, MaskConfig, Plan, RuntimeConfig
from mediar_infer.engine.preprocess import compute_scaling
from mediar_infer.errors import ImageReadError
from mediar_infer.exports.compiled import load_cell_kernels
from mediar_infer.folder.image_task import open_input
from mediar_infer.folder.options import RunOptions
from mediar_infer.folder.runner import run_folder
from mediar_infer.folder.selection import Selection
from mediar_infer.images.limits import ReadOptions
from mediar_infer.labels.reading import read_labels
from mediar_infer.network.pending_weights import PendingWeights
from mediar_infer.network.weight_files import (
    ListedWeights,
    compute_digest,
    write_weights_manifest,
)
from mediar_infer.segmenter import Segmenter

pytest.importorskip("distributed")

_DEADLINE_S = 120
CONFIG = EngineConfig(
    plan=Plan(max_members=1, flips=("identity", "vertical"), overlap=0.25),
    masks=MaskConfig(blocks="stitched"),
    runtime=RuntimeConfig(threads=1),
    roi_size=64,
)
SPREAD_FROM = 100_000


def _await(is_so, what):
    deadline = time.monotonic() + _DEADLINE_S
    while not is_so():
        assert time.monotonic() < deadline, f"waited in vain for {what}"
        time.sleep(0.02)


class Cluster:
    """A scheduler and workers, a process each, as an administrator would start them."""

    def __init__(self, folder, window_s=0.0):
        self._folder, self._window_s = folder, window_s
        self._file = folder / "scheduler.json"
        self._processes = []
        self.scheduler = self._start(
            "scheduler", "--host", "127.0.0.1", "--port", "0", "--dashboard-address", "127.0.0.1:0"
        )
        self.workers = [self._start_worker(name) for name in ("first", "second")]
        _await(self._file.exists, "the scheduler")

    def _start(self, role, *options):
        paths = [ROOT, ROOT / "tests", os.environ.get("PYTHONPATH", "")]
        variables = {
            "OMP_NUM_THREADS": "1",
            "PYTHONPATH": os.pathsep.join(map(str, filter(None, paths))),
            "TEST_WINDOW_S": str(self._window_s),
        }
        command = [
            sys.executable, "-m", f"distributed.cli.dask_{role}", "--no-dashboard",
            "--scheduler-file", self._file, *options,
        ]  # fmt: skip
        with (self._folder / "log").open("ab") as log:
            process = subprocess.Popen(
                list(map(str, command)), cwd=self._folder, env=os.environ | variables,
                stdout=log, stderr=log,
            )  # fmt: skip
        self._processes.append(process)
        return process

    def _start_worker(self, name):
        preload = Path(__file__).parent / "preload_perfect_network.py"
        return self._start(
            "worker", "--name", name, "--no-nanny", "--nthreads", "1", "--memory-limit", "0",
            "--local-directory", self._folder, "--death-timeout", "60", "--preload", preload,
        )  # fmt: skip

    @property
    def address(self):
        return json.loads(self._file.read_text())["address"]

    def stop(self):
        for process in self._processes:
            process.kill()
        for process in self._processes:
            process.wait()


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    """Two workers of a network that is always right."""
    cluster = Cluster(tmp_path_factory.mktemp("cluster"))
    yield cluster
    cluster.stop()


@pytest.fixture
def slow_cluster(tmp_path):
    """Two workers that are slow enough to be stopped in the middle."""
    (tmp_path / "cluster").mkdir()
    cluster = Cluster(tmp_path / "cluster", window_s=0.005)
    yield cluster
    cluster.stop()


@pytest.fixture
def small_ranges(monkeypatch):
    """A few hundred rows make many ranges."""
    monkeypatch.setattr(spread, "MAX_RANGE_BYTES", 12 * 300 * 150)


@pytest.fixture
def inputs(tmp_path):
    """Five small images, and a slide that counts as a large one."""
    for number in range(5):
        write_image(tmp_path / "in" / f"small{number}.png", slide(seed=number)[0])
    write_image(tmp_path / "in" / "large.tif", slide(9, 1000, 300)[0])
    return tmp_path / "in"


@pytest.fixture
def expected(inputs, tmp_path, weights_dir):
    """Label files of one process, by name."""
    outputs = tmp_path / "expected"
    segmenter = perfect_from_pending(PendingWeights([weights_dir], CONFIG))
    run_folder(segmenter, RunOptions(Selection((inputs,)), outputs))
    assert read_labels(outputs / "large_label.tiff").max() == slide(9, 1000, 300)[1].max() > 0
    return {path.name: path.read_bytes() for path in outputs.glob("*_label.tiff")}


def _label_files(outputs):
    return {path.name: path.read_bytes() for path in outputs.glob("*_label.tiff")}


@pytest.mark.usefixtures("small_ranges")
def test_small_and_large_scenes_of_a_file_are_spread_like_images(cluster, tmp_path, weights_dir):
    images = [slide(1)[0], slide(9, 1000, 300)[0]]
    tiles = [Tile(image[:, :, ::-1], x=999 * k, index={"S": k}) for k, image in enumerate(images)]
    (tmp_path / "a.czi").write_bytes(czi_bytes(tiles))
    reading = ReadOptions(scene="all")
    segmenter = perfect_from_pending(PendingWeights([weights_dir], CONFIG))
    run_folder(
        segmenter, RunOptions(Selection((tmp_path / "a.czi",)), tmp_path / "one", reading=reading)
    )
    options = RunOptions(Selection((tmp_path / "a.czi",)), tmp_path / "out", reading=reading)
    client.run_on_cluster(cluster.address, [weights_dir], CONFIG, options, spread_from=SPREAD_FROM)
    expected = _label_files(tmp_path / "one")
    assert [*sorted(expected)] == ["a_s00_label.tiff", "a_s01_label.tiff"]
    assert _label_files(tmp_path / "out") == expected


@pytest.mark.usefixtures("small_ranges")
def test_two_workers_give_the_label_files_of_one_process(
    cluster, inputs, expected, tmp_path, weights_dir
):
    records = client.run_on_cluster(
        cluster.address, [weights_dir], CONFIG,
        RunOptions(Selection((inputs,)), tmp_path / "out", ledger_dir=tmp_path / "out"),
        spread_from=SPREAD_FROM,
    )  # fmt: skip
    assert [record.status for record in records] == ["done"] * 6
    assert [record.file for record in records] == sorted(p.name for p in inputs.iterdir())
    assert _label_files(tmp_path / "out") == expected
    assert names_of(tmp_path / "out") == sorted([*expected, "ledger.jsonl", "summary.json"])
    by_name = latest_records(tmp_path / "out")
    assert len(read_ledger(tmp_path / "out")) == len(by_name) == 6
    assert by_name["large.tif"]["worker"] == "first, second"
    assert {by_name[f"small{n}.png"]["worker"] for n in range(5)} <= {"first", "second"}
    assert all(0 < record["wall_s"] < _DEADLINE_S for record in by_name.values())


def _loads(address):
    """How often each worker has loaded weights."""
    import distributed

    with distributed.Client(address, set_as_default=False) as other:
        return other.run(lambda: cluster_worker._load_segmenter.cache_info().misses)


def test_all_workers_load_the_weights_at_once(cluster, tmp_path, weights_dir):
    write_image(tmp_path / "in" / "a.png", slide()[0])
    options = RunOptions(Selection((tmp_path / "in",)), tmp_path / "out")
    config = replace(CONFIG, plan=replace(CONFIG.plan, overlap=0.3))
    before = _loads(cluster.address)
    (record,) = client.run_on_cluster(cluster.address, [weights_dir], config, options)
    assert (record.status, len(before)) == ("done", 2)
    expected = {worker: n_loads + 1 for worker, n_loads in before.items()}
    _await(lambda: _loads(cluster.address) == expected, "the worker that had no image")


@pytest.mark.usefixtures("small_ranges")
@pytest.mark.parametrize("scale", [0.5, 2.0])
def test_workers_at_another_scale_give_the_label_files_of_one_process(
    cluster, inputs, tmp_path, weights_dir, scale
):
    config = replace(CONFIG, scale=scale)
    one, two = (RunOptions(Selection((inputs,)), tmp_path / name) for name in ("one", "two"))
    run_folder(perfect_from_pending(PendingWeights([weights_dir], config)), one)
    records = client.run_on_cluster(
        cluster.address, [weights_dir], config, two, spread_from=SPREAD_FROM
    )
    assert [record.scale["scale"] for record in records] == [scale] * 6
    assert _label_files(two.output_dir) == _label_files(one.output_dir)
    assert len(_label_files(one.output_dir)) == 6


@pytest.mark.usefixtures("small_ranges")
def test_death_of_one_of_two_workers_loses_nothing(
    slow_cluster, inputs, expected, tmp_path, weights_dir
):
    outputs, n_done = tmp_path / "out", []

    def kill_one():
        _await(lambda: list(outputs.glob(".large_label*.part")), "the slide")
        n_done.append(len(list(outputs.glob("*_label.tiff"))))
        slow_cluster.workers[0].kill()

    killer = threading.Thread(target=kill_one)
    killer.start()
    records = client.run_on_cluster(
        slow_cluster.address, [weights_dir], CONFIG,
        RunOptions(Selection((inputs,)), outputs, outputs),
        spread_from=SPREAD_FROM,
    )  # fmt: skip
    killer.join()
    assert n_done[0] < 6
    assert [record.status for record in records] == ["done"] * 6
    assert _label_files(outputs) == expected
    assert len(read_ledger(outputs)) == 6
    assert names_of(outputs) == sorted([*expected, "ledger.jsonl", "summary.json"])


@pytest.mark.usefixtures("small_ranges")
def test_threshold_that_the_weights_state_counts_for_a_spread_slide(cluster, tmp_path, weights_dir):
    write_image(tmp_path / "in" / "large.tif", slide(9, 1000, 300)[0])
    options = RunOptions(Selection((tmp_path / "in",)), tmp_path / "out")
    weights = sorted(weights_dir.glob("*.safetensors"))
    for path in weights:
        shutil.copy(path, tmp_path)
    n_removed = []
    for threshold in (0.5, 1e-9):  # workers that have loaded them notice when it changes
        listed = {
            path.name: ListedWeights(compute_digest(path), flow_threshold=threshold)
            for path in weights
        }
        write_weights_manifest(tmp_path, listed)
        (record,) = client.run_on_cluster(
            cluster.address, [tmp_path], CONFIG, options, spread_from=SPREAD_FROM
        )
        assert record.plan["masks"]["flow_threshold"] == threshold
        n_removed.append(record.flow_check["n_removed"])
    assert record.n_cells == n_removed[0] == 0 < n_removed[1]


def test_faults_resume_and_overlays_are_as_in_one_process(
    cluster, predict, tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(Segmenter, "from_pending", perfect_from_pending)
    for name in ("good.png", "twice.a.png", "twice.b.png"):
        write_image(tmp_path / "in" / name)
    (tmp_path / "in" / "bad.png").write_bytes(b"")
    options = ("--overlays", "--resume", "--blocks", "stitched")
    assert predict(tmp_path / "in", tmp_path / "one", *options) == 1
    assert predict(tmp_path / "in", tmp_path / "two", *options, "--dask", cluster.address) == 1
    one, two = latest_records(tmp_path / "one"), latest_records(tmp_path / "two")
    same = ("status", "error", "n_cells", "height", "plan", "weights", "warnings", "output")
    assert one.keys() == two.keys()
    for name in one:
        assert {key: one[name][key] for key in same} == {key: two[name][key] for key in same}
    assert _label_files(tmp_path / "one") == _label_files(tmp_path / "two")
    assert names_of(tmp_path / "two" / "overlays") == ["good_label.png"]
    assert "ERROR bad.png: found an empty file" in capsys.readouterr().err

    (tmp_path / "in" / "bad.png").unlink()
    (tmp_path / "in" / "twice.b.png").unlink()
    assert predict(tmp_path / "in", tmp_path / "two", *options, "--dask", cluster.address) == 0
    statuses = {name: each["status"] for name, each in latest_records(tmp_path / "two").items()}
    assert (statuses["good.png"], statuses["twice.a.png"]) == ("resumed", "done")


@pytest.mark.usefixtures("small_ranges")
def test_fault_of_a_large_image_does_not_stop_the_others(
    cluster, inputs, expected, tmp_path, weights_dir
):
    damaged = inputs / "large.tif"
    damaged.write_bytes(damaged.read_bytes()[:-20_000])
    records = client.run_on_cluster(
        cluster.address, [weights_dir], CONFIG,
        RunOptions(Selection((inputs,)), tmp_path / "out", ledger_dir=tmp_path / "out"),
        spread_from=SPREAD_FROM,
    )  # fmt: skip
    assert [record.status for record in records] == ["failed"] + ["done"] * 5
    expected.pop("large_label.tiff")
    assert _label_files(tmp_path / "out") == expected


@pytest.mark.parametrize("scale", [1.0, 0.5])
@pytest.mark.usefixtures("small_ranges")
def test_large_image_whose_labels_do_not_fit_here_fails_as_in_one_process(
    cluster, inputs, tmp_path, weights_dir, monkeypatch, scale
):
    config = replace(CONFIG, masks=MaskConfig(blocks="paper"), scale=scale)
    one, two = (RunOptions(Selection((inputs,)), tmp_path / name) for name in ("one", "two"))
    needed = int(24 * 1000 * 300 * scale**2)
    monkeypatch.setattr(image_work, "available_memory_bytes", lambda: needed - 1)
    monkeypatch.setattr(image_work, "_ROW_BYTES_PER_PIXEL", 0)
    segmenter = perfect_from_pending(PendingWeights([weights_dir], config))
    expected = {each.file: each for each in run_folder(segmenter, one)}
    records = client.run_on_cluster(
        cluster.address, [weights_dir], config, two, spread_from=SPREAD_FROM
    )
    assert [record.status for record in records] == ["failed"] + ["done"] * 5
    assert records[0].error == expected["large.tif"].error
    assert "1,000 × 300 pixels that take at least" in records[0].error
    monkeypatch.setattr(image_work, "available_memory_bytes", lambda: needed)
    records = client.run_on_cluster(
        cluster.address, [weights_dir], config, two, spread_from=SPREAD_FROM
    )
    assert [record.status for record in records] == ["done"] * 6


def test_weights_that_are_missing_on_the_workers_are_named(cluster, predict, inputs, capsys):
    weights = inputs.parent / "nowhere"
    options = ("--weights", weights, "--dask", cluster.address)
    assert predict(inputs, inputs.parent / "out", *options) == 2
    assert "nowhere: there is no such weight file" in capsys.readouterr().err


@pytest.fixture
def job(tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "mark").touch()
    options = RunOptions(Selection((tmp_path / "in",)), tmp_path / "out")
    return cluster_worker.ClusterJob((), CONFIG, options, tmp_path / "mark", SPREAD_FROM, "0.0")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"version": "0.0"}, r"found mediar_infer .*, expected 0\.0 as on the client"),
        (
            {"options": RunOptions(Selection((Path("/no/in"),)), Path("/no/out"))},
            r"found no /no/in.*mount it",
        ),
        ({"mark": Path("/no/mark")}, r"found another or no .*out, expected .*; mount it there"),
    ],
)
def test_worker_that_cannot_do_the_job_says_why(job, change, message):
    job = replace(job, version=cluster_worker.__version__)
    assert cluster_worker.find_problem(job) is None
    with pytest.raises(AssertionError, match=message):
        raise AssertionError(cluster_worker.find_problem(replace(job, **change)))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--dask", "local:0"), "found --dask local:0, expected local:N with 1 worker or more"),
        (("--dask", "local:two"), "found --dask local:two, expected local:N"),
        (("--dask", "local:2", "--fit-budget"), "found --fit-budget and --dask local:2"),
        (("--dask", "tcp://127.0.0.1:9"), "found no scheduler"),
    ],
)
def test_wrong_use_is_named(predict, inputs, tmp_path, capsys, monkeypatch, options, message):
    monkeypatch.setattr(connection, "_CONNECT_S", 0.5)
    assert predict(inputs, tmp_path / "out", *options) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_without_dask_the_option_says_what_to_install(
    predict, inputs, tmp_path, capsys, monkeypatch
):
    monkeypatch.setitem(sys.modules, "distributed", None)
    assert predict(inputs, tmp_path / "out", "--dask", "local:2") == 2
    assert "pip install 'mediar-infer[dask]'" in capsys.readouterr().err


def _predict_pieces(monkeypatch, tmp_path, pieces):
    """Maps of pieces of rows of a slide of 500 rows, and the windows that they took."""
    write_image(tmp_path / "in" / "a.png", slide(3, 500, 100)[0])
    selection = Selection((tmp_path / "in",))
    job = ClusterJob((), CONFIG, RunOptions(selection, tmp_path), tmp_path, SPREAD_FROM, "")
    (image,) = job.options.find_inputs().images
    member = FunctionBackend(decode_scene)
    monkeypatch.setattr(cluster_worker, "_prepare", lambda _: Segmenter([member], CONFIG))
    monkeypatch.setattr(cluster_worker, "_own_worker", lambda: SimpleNamespace(name="first"))
    with open_input(image, job.options) as source:
        scaling = compute_scaling(source)
    parts = [
        cluster_worker.predict_rows(job, image, scaling, 1.0, cluster_worker.Rows(*rows), None)
        for rows in pieces
    ]
    assert cluster_worker._in_progress == []
    return [part.maps for part in parts], member.n_windows


def test_worker_refuses_rows_that_do_not_fit_in_its_memory(monkeypatch, tmp_path):
    needed = image_work._ROW_BYTES_PER_PIXEL * CONFIG.roi_size * 100
    monkeypatch.setattr(image_work, "available_memory_bytes", lambda: needed - 1)
    with pytest.raises(ImageReadError, match=r"a\.png: found 500 × 100 pixels that take at least"):
        _predict_pieces(monkeypatch, tmp_path, [(96, 500, 500)])
    assert cluster_worker._in_progress == []
    monkeypatch.setattr(image_work, "available_memory_bytes", lambda: needed)
    assert _predict_pieces(monkeypatch, tmp_path, [(96, 500, 500)])[1] > 0


def test_worker_that_goes_on_below_predicts_no_window_twice(monkeypatch, tmp_path):
    (whole,), n_windows = _predict_pieces(monkeypatch, tmp_path, [(96, 500, 500)])
    pieces = [(96, 200, 500), (200, 201, 500), (201, 384, 500), (384, 500, 500)]
    parts, n_in_pieces = _predict_pieces(monkeypatch, tmp_path, pieces)
    np.testing.assert_array_equal(np.concatenate(parts, axis=1), whole)
    assert n_in_pieces == n_windows


def test_pieces_in_any_order_have_the_same_maps(monkeypatch, tmp_path):
    (whole,), _ = _predict_pieces(monkeypatch, tmp_path, [(0, 500, 500)])
    pieces = [(192, 384, 500), (0, 192, 500), (384, 500, 500)]
    middle, above, below = _predict_pieces(monkeypatch, tmp_path, pieces)[0]
    np.testing.assert_array_equal(np.concatenate([above, middle, below], axis=1), whole)


@pytest.mark.parametrize(
    ("height", "n_workers", "max_rows"),
    [(1, 2, 9), (64, 3, 1000), (1000, 1, 1000), (1000, 2, 1000), (1000, 2, 300), (999, 7, 50)],
)
def test_ranges_of_rows_begin_with_windows_and_keep_workers_busy(height, n_workers, max_rows):
    window_rows = list(range(0, max(height - 40, 1), 24))
    ranges = split_rows(window_rows, height, 64, n_workers, max_rows)
    assert ranges[0][0] == 0
    assert ranges[-1][1] == height
    assert all(above[1] == below[0] for above, below in pairwise(ranges))
    assert {first for first, _ in ranges} <= set(window_rows)
    sizes = np.diff([*[first for first, _ in ranges], height])
    assert sizes.min() > 0
    assert sizes.max() <= max(max_rows, 64) + 64
    if height > n_workers * 64:
        assert len(ranges) >= n_workers


def test_local_workers_are_started_and_stopped(start_predict, predict, tmp_path):
    for name in ("a.png", "b.png"):
        write_image(tmp_path / "in" / name)
    process = start_predict(tmp_path / "in", tmp_path / "two", "--dask", "local:1", "--quiet")
    assert predict(tmp_path / "in", tmp_path / "one") == 0
    out, err = process.communicate(timeout=_DEADLINE_S)
    assert (process.returncode, out, err) == (0, "", "")
    assert _label_files(tmp_path / "two") == _label_files(tmp_path / "one")


@pytest.mark.usefixtures("small_ranges")
def test_exports_table_and_report_are_those_of_one_process(
    cluster, predict, inputs, tmp_path, monkeypatch
):
    load_cell_kernels()
    monkeypatch.setattr(Segmenter, "from_pending", perfect_from_pending)
    monkeypatch.setattr(client, "LARGE_IMAGE_PIXELS", SPREAD_FROM)
    monkeypatch.setattr(client.run_on_cluster, "__kwdefaults__", {"spread_from": SPREAD_FROM})
    options = ("--rois", "--table", "cells.csv", "--report", "--blocks", "stitched")
    assert predict(inputs, tmp_path / "one", *options) == 0
    assert predict(inputs, tmp_path / "two", *options, "--dask", cluster.address) == 0
    for name in ("cells.csv", "rois/large_rois.zip", "rois/small0_rois.zip"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()
    pages = [(tmp_path / name / "report.html").read_text() for name in ("one", "two")]
    assert pages[0].count("data:image/webp") == pages[1].count("data:image/webp") == 12
