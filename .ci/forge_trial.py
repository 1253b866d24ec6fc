"""The test harness that grand-challenge-forge generates for an algorithm, run on our image.

python .ci/forge_trial.py DOCKER IMAGE BIN   # BIN: programs of an environment with forge and panimg

The harness of an algorithm with one, two and three interfaces is generated and started as it is,
except that its script for building an example image is replaced by a name for ours. The results
must lie where the platform looks for them, and be read by its importer.
"""

import json
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
TABLE = """
[[interface]]
image = "generic-medical-image"
result = "images/"

[[interface]]
image = "cell-image"
result = "cell-labels"

[[interface]]
image = "cell-image"
also = ["pixel-size"]
result = "cell-labels"
"""


def _socket(slug: str, path: str, kind: str, super_kind: str) -> dict[str, str]:
    return {"slug": slug, "relative_path": path, "kind": kind, "super_kind": super_kind}


_IMAGE = _socket("cell-image", "images/cell-image", "Image", "Image")
_LABELS = _socket("cell-labels", "images/cell-labels", "Image", "Image")
INTERFACES: list[dict[str, list[dict[str, str]]]] = [
    {
        "inputs": [_socket("generic-medical-image", "", "Image", "Image")],
        "outputs": [_socket("generic-overlay", "images", "Heat Map", "Image")],
    },
    {"inputs": [_IMAGE], "outputs": [_LABELS]},
    {
        "inputs": [_IMAGE, _socket("pixel-size", "pixel-size.json", "Float", "Value")],
        "outputs": [_LABELS],
    },
]


_TIMEOUT_S = 600


def run(*command: str | Path, **variables: str) -> str:
    """Standard output of a command; what it printed is shown if it fails."""
    done = subprocess.run(
        [*map(str, command)],
        env=os.environ | variables,
        capture_output=True,
        text=True,
        check=False,
        timeout=_TIMEOUT_S,
    )
    if done.returncode:
        raise SystemExit(
            f"forge_trial: {shlex.join(map(str, command))}: exit code {done.returncode}\n"
            f"{done.stdout}{done.stderr}"
        )
    return done.stdout


def generate(work: Path, programs: Path, n_interfaces: int) -> Path:
    """Generate the harness of an algorithm with this many interfaces."""
    algorithm: dict[str, Any] = {
        "title": "Cells",
        "slug": f"cells-{n_interfaces}",
        "url": "https://grand-challenge.org/algorithms/cells/",
        "algorithm_interfaces": INTERFACES[:n_interfaces],
    }
    context = json.dumps({"algorithm": algorithm})
    # In its debug mode the harness asks for no GPU.
    run(
        programs / "grand-challenge-forge", "algorithm", "--output", work, context,
        GRAND_CHALLENGE_FORGE_DEBUG="true",
    )  # fmt: skip
    harness = work / f"cells-{n_interfaces}-template"
    for path in (ROOT / "weights").iterdir():
        shutil.copy(path, harness / "model")
    # The shipped table knows the first interface.
    if n_interfaces > 1:
        (harness / "model" / "sockets.toml").write_text(TABLE)
    return harness


def start(harness: Path, docker: list[str], image: str, n_interfaces: int) -> None:
    """Start the harness with our image under the name of its example."""
    programs = harness.parent / "bin"
    programs.mkdir(exist_ok=True)
    (programs / "docker").write_text(f'#!/bin/sh\nexec {shlex.join(docker)} "$@"\n')
    (programs / "docker").chmod(0o755)
    name = f"example-algorithm-cells-{n_interfaces}"
    (harness / "do_build.sh").write_text(f"{shlex.join([*docker, 'tag', image, name])}\n")
    try:
        run("bash", harness / "do_test_run.sh", PATH=f"{programs}:{os.environ['PATH']}")
    finally:
        for clean_up in (["rmi", name], ["volume", "rm", f"{name}-volume"]):
            subprocess.run([*docker, *clean_up], capture_output=True, check=False)


def check(harness: Path, programs: Path, n_interfaces: int) -> list[str]:
    """Return what is wrong with the results: missing, unexpected or refused files."""
    outputs = harness / "test" / "output"
    expected = {
        f"interf{number}/{socket['relative_path']}/output.mha"
        for number, interface in enumerate(INTERFACES[:n_interfaces])
        for socket in interface["outputs"]
    }
    found = {str(path.relative_to(outputs)) for path in outputs.rglob("*") if path.is_file()}
    if found != expected:
        return [f"found {sorted(found)}, expected {sorted(expected)}"]
    run(programs / "python", ROOT / ".ci" / "read_by_panimg.py", outputs)
    return []


def main() -> int:
    """Run all harnesses; 1 if a result is not as the platform expects it."""
    docker, image, programs = shlex.split(sys.argv[1]), sys.argv[2], Path(sys.argv[3])
    # By its path: the harness is given a command "docker" of its own, which calls this one.
    docker[0] = shutil.which(docker[0]) or docker[0]
    wrong = []
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        work.chmod(0o755)
        for n_interfaces in range(1, len(INTERFACES) + 1):
            harness = generate(work, programs, n_interfaces)
            start(harness, docker, image, n_interfaces)
            found = check(harness, programs, n_interfaces)
            wrong += [f"{n_interfaces} interfaces: {line}" for line in found]
            outcome = "failed" if found else "passed"
            sys.stdout.write(f"forge_trial: {n_interfaces} interfaces {outcome}\n")
    sys.stdout.writelines(f"{line}\n" for line in wrong)
    return 1 if wrong else 0


if __name__ == "__main__":
    raise SystemExit(main())
