"""Check of a container image while it is built."""

import pytest

from mediar_infer.container.image_check import (
    CUDA_LIBRARIES,
    imported_modules,
    missing_libraries,
    missing_modules,
)


def _write(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def test_imports_are_found_inside_functions_and_under_conditions(tmp_path):
    _write(tmp_path / "a.py", "import os.path\nfrom . import b\nfrom json import dumps\n")
    _write(tmp_path / "c" / "d.py", "def work():\n    if True:\n        import numpy as np, cv2\n")
    assert imported_modules(tmp_path) == {"os.path", "json", "numpy", "cv2"}


@pytest.fixture
def importable(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path


def test_module_that_was_trimmed_from_an_installed_package_is_named(importable):
    _write(importable / "trimmed_package" / "__init__.py", "from trimmed_package import tests\n")
    (line,) = missing_modules({"trimmed_package", "numpy"})
    assert line.startswith("import trimmed_package: cannot import name 'tests'")
    (line,) = missing_modules({"numpy.no_such_module"})
    assert line == "import numpy.no_such_module: No module named 'numpy.no_such_module'"


def test_optional_packages_may_be_absent(importable):
    _write(importable / "needs_optional.py", "import no_such_package.part\n")
    assert list(missing_modules({"no_such_package", "needs_optional"})) == []


def test_libraries_of_cuda_that_are_absent_or_do_not_load_are_named(tmp_path):
    _write(tmp_path / "nvidia" / "cudnn" / "lib" / "libcudnn_ops.so.9", "not a library")
    lines = list(missing_libraries(tmp_path))
    assert len(lines) == len(CUDA_LIBRARIES)
    assert [line for line in lines if line.startswith("libcudnn_ops.so.9: ")]
    assert "nvidia/**/libnvrtc.so.*: found no such library" in lines
