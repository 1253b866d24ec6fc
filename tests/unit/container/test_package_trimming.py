"""Trimming of installed packages in the container image."""

from importlib.metadata import files
from pathlib import PurePosixPath

import pytest

from mediar_infer.container.package_trimming import UNUSED, trim_packages


def _write(folder, names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"0123456789")


def _remaining(folder):
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def test_unused_files_go_and_all_others_stay(tmp_path):
    unused = {
        "numpy/tests/test_a.py", "numpy/_core/tests/data/tests/b.npy", "torch/include/c10/a.h",
        "numpy/random/lib/libnpyrandom.a", "torch/bin/ptxas", "torch/bin/protoc-3.13.0.0",
        "nvidia/cu13/lib/libnvrtc.alt.so.13", "nvidia/cu13/lib/libnvrtc-builtins.alt.so.13.0",
        "nvidia/cusolver/lib/libcusolverMg.so.11", "nvidia/cu13/lib/libnvperf_host.so",
        "openvino/libs/libopenvino_intel_gpu_plugin.so",
        "openvino/libs/libopenvino_onnx_frontend.so.2641",
        "openvino/libs/libopenvino_tensorflow_lite_frontend.so.2641",
    }  # fmt: skip
    used = {
        "numpy/testing/a.py", "torch/testing/a.py", "torch/bin/torch_shm_manager",
        "nvidia/cu13/lib/libnvrtc.so.13", "nvidia/cu13/lib/libnvrtc-builtins.so.13.0",
        "nvidia/cu13/lib/libcusolver.so.12", "openvino/libs/libopenvino_intel_cpu_plugin.so",
        "openvino/libs/libopenvino_ir_frontend.so.2641", "openvino/libs/libopenvino.so.2641",
    }  # fmt: skip
    _write(tmp_path, unused | used)
    freed = dict(trim_packages(tmp_path))
    assert _remaining(tmp_path) == used
    assert list(freed) == list(UNUSED)
    assert sum(freed.values()) == 10 * len(unused)


def test_links_are_removed_and_not_followed(tmp_path):
    _write(tmp_path, ["data/kept.txt"])
    (tmp_path / "package").mkdir()
    (tmp_path / "package" / "tests").symlink_to(tmp_path / "data")
    list(trim_packages(tmp_path))
    assert not (tmp_path / "package" / "tests").is_symlink()
    assert _remaining(tmp_path) == {"data/kept.txt"}


@pytest.mark.parametrize(
    ("package", "start"), [("openvino", "openvino/"), ("numpy", "**/"), ("torch", "torch/")]
)
def test_installed_packages_have_what_is_trimmed(package, start):
    """A pattern that no file matches any more would let the image grow without a word."""
    paths = {path for file in files(package) for path in (file, *file.parents)}
    patterns = [pattern for pattern in UNUSED if pattern.startswith(start)]
    assert patterns
    for pattern in patterns:
        assert any(PurePosixPath(path).match(pattern) for path in paths), pattern
