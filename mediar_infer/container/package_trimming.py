"""Removes what installed packages bring and inference never reads: run while an image is built."""

import shutil
import site
import sys
from collections.abc import Iterator
from pathlib import Path

UNUSED = {
    "**/tests": "tests of packages",
    "**/include": "headers for compilers",
    "**/*.a": "libraries for linkers",
    "nvidia/nvshmem/lib/libnvshmem_device.bc": "code for compilers of kernels",
    "torch/bin/ptxas": "a compiler of kernels",
    "torch/bin/protoc*": "a compiler of message formats",
    "nvidia/**/libnvrtc*.alt.so*": "a second copy of a compiler of kernels",
    "nvidia/**/libcusolverMg.so*": "linear algebra on several GPUs",
    "nvidia/**/libnvperf_*.so*": "counters for profilers",
    "openvino/libs/libopenvino_intel_gpu_plugin.so": "OpenVINO runs on CPUs only",
    "openvino/libs/libopenvino_intel_npu_plugin.so": "OpenVINO runs on CPUs only",
    "openvino/libs/cache.json": "kernels of the GPU plugin",
    "openvino/libs/libopenvino_[!i]*_frontend.so*": "readers of foreign graphs",
}
"""Pattern below the folder of packages → what it matches. Nothing imported refers to any of it."""


def trim_packages(packages: Path) -> Iterator[tuple[str, int]]:
    """Remove what is unused.

    Args:
        packages: the folder that pip installs into.

    Yields:
        Each pattern with the bytes that it freed.
    """
    for pattern in UNUSED:
        freed = 0
        for path in sorted(packages.glob(pattern)):
            if path.is_dir() and not path.is_symlink():
                freed += sum(part.lstat().st_size for part in path.rglob("*") if part.is_file())
                shutil.rmtree(path)
            elif path.exists() or path.is_symlink():
                freed += path.lstat().st_size
                path.unlink()
        yield pattern, freed


if __name__ == "__main__":
    for pattern, freed in trim_packages(Path(site.getsitepackages()[0])):
        sys.stdout.write(f"{freed / 1e6:7.1f} MB  {pattern}: {UNUSED[pattern]}\n")
