"""What is imported on the way from one image to its labels: each import costs start-up time."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tifffile
from fakes import tiny_state_dict

import mediar_infer
from mediar_infer import errors
from mediar_infer.errors import ExportError
from mediar_infer.exports.compiled import load_cell_kernels
from mediar_infer.network.checkpoints import save_weights

ROOT = Path(__file__).resolve().parents[1]
NEVER = {
    "SimpleITK", "matplotlib", "monai", "pandas", "segmentation_models_pytorch", "timm",
    "torchvision", "shtab", "ttach",
}  # fmt: skip
"""Needed by training, tests, plots and completion only; most are slow to import."""
ONLY_WHERE_NEEDED = {"scipy", "skimage", "openvino", "PIL", "simplejpeg", "jinja2"}
"""Each is imported by the step that needs it: scoring, an exported graph, JPEG, the HTML page."""

PREDICT = """
import json, sys
from mediar_infer.cli import main
code = main(sys.argv[1:])
tops = sorted({name.partition(".")[0] for name in sys.modules})
print(json.dumps([code, tops, [name for name in sys.modules if name.startswith("mediar_infer")]]))
"""


def run_python(program, *arguments):
    done = subprocess.run(
        [sys.executable, "-c", program, *map(str, arguments)],
        capture_output=True, text=True, check=True, cwd=ROOT,
    )  # fmt: skip
    return json.loads(done.stdout.splitlines()[-1])


@pytest.fixture(scope="module")
def after_predict(tmp_path_factory):
    """Exit code, top-level modules and own modules after one image was segmented."""
    folder = tmp_path_factory.mktemp("imports")
    weights = folder / "weights"
    for seed, name in enumerate("ab"):
        save_weights(tiny_state_dict(seed), weights / f"{name}.safetensors")
    (folder / "inputs").mkdir()
    pixels = np.arange(64 * 64, dtype=np.uint16).reshape(64, 64)
    tifffile.imwrite(folder / "inputs" / "cells.tif", pixels)
    result = run_python(
        PREDICT, "predict", "--input", folder / "inputs", "--output", folder / "outputs",
        "--weights", weights, "--device", "cpu", "--threads", "1", "--flips", "none", "--quiet",
    )  # fmt: skip
    assert (folder / "outputs" / "cells_label.tiff").is_file()
    return result


def test_prediction_succeeds(after_predict):
    assert after_predict[0] == 0


def test_prediction_imports_neither_training_nor_adapters_to_hosts(after_predict):
    _, tops, own = after_predict
    assert NEVER & set(tops) == set()
    others = ("mediar_infer.training", "mediar_infer.hosts", "mediar_infer.napari_plugin")
    assert [name for name in own if name.startswith(others)] == []


def test_prediction_imports_heavy_packages_only_where_needed(after_predict):
    assert ONLY_WHERE_NEEDED & set(after_predict[1]) == set()


def test_prediction_imports_what_it_is_built_on(after_predict):
    # Otherwise the lists above would be empty for another reason.
    assert {"torch", "numpy", "tifffile", "cv2", "safetensors"} <= set(after_predict[1])


def test_every_public_name_is_there_and_only_the_needed_modules_are_imported():
    program = """
import json, sys, mediar_infer
assert set(mediar_infer.__all__) <= set(dir(mediar_infer))
first = [name for name in ("read_labels", "evaluate_labels") if getattr(mediar_infer, name)]
early = "torch" in sys.modules
missing = [name for name in mediar_infer.__all__ if getattr(mediar_infer, name, None) is None]
print(json.dumps([first, early, missing]))
"""
    assert run_python(program) == [["read_labels", "evaluate_labels"], False, []]


def test_every_error_is_public():
    defined = {
        name for name, value in vars(errors).items()
        if isinstance(value, type) and value.__module__ == errors.__name__
    }  # fmt: skip
    assert defined <= set(mediar_infer.__all__)


def test_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="module 'mediar_infer' has no attribute 'segment'"):
        mediar_infer.segment  # noqa: B018


def test_importing_the_package_imports_nothing_but_itself():
    program = "import json, sys, mediar_infer; print(json.dumps(sorted(sys.modules)))"
    loaded = set(run_python(program))
    assert {"torch", "numpy", "cv2", "tifffile"} & loaded == set()
    assert "mediar_infer.config" in loaded


def test_help_does_not_import_torch():
    program = (
        "import contextlib, io, json, sys\n"
        "from mediar_infer.cli import main\n"
        "with contextlib.redirect_stdout(io.StringIO()), contextlib.suppress(SystemExit):\n"
        "    main(sys.argv[1:])\n"
        "print(json.dumps(sorted(sys.modules)))"
    )
    assert "torch" not in run_python(program, "--help")
    assert "torch" not in run_python(program, "predict", "--help")


def test_export_imports_neither_torch_nor_the_network(tmp_path):
    try:
        load_cell_kernels()
    except ExportError:
        pytest.skip("the package was installed without a C compiler")
    tifffile.imwrite(tmp_path / "a_label.tiff", np.eye(4, dtype=np.uint16))
    options = ("-o", tmp_path, "--geojson", "--table", "cells.csv", "--quiet")
    code, tops, own = run_python(PREDICT, "export", tmp_path / "a_label.tiff", *options)
    assert (code, (tmp_path / "cells.csv").is_file()) == (0, True)
    assert {"torch", "openvino", "scipy", "zarr", "pyarrow", "roifile"} & set(tops) == set()
    assert "mediar_infer.exports.export" in own
    assert not any(name.startswith("mediar_infer.network") for name in own)
