r"""Everything that is to be proven on a GPU, in one command and within ten minutes.

    make gpu
    python benchmarks/bench_gpu.py --images FOLDER --parts parity,slide

Each part runs in a process of its own with a limit of time; if it fails, that is recorded, and the
next one runs. Figures go to ``--output`` after each part, and a table to standard output. Needs the
packages of ``requirements.txt`` and nothing from the network. A trial of the code without a GPU,
whose figures mean nothing, takes a minute or two:

    python benchmarks/bench_gpu.py --device cpu --quick --output /tmp/gpu.json
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict
from importlib import import_module
from pathlib import Path
from typing import Any

import common

LIMITS_S = {
    "parity": 110, "network": 150, "labels": 50, "slide": 140, "start": 60, "training": 80
}  # fmt: skip
"""Parts in their order, each a module ``gpu_NAME.py``, with its limit; ten minutes in all."""
DEFAULT_OUTPUT = common.ROOT / "benchmarks" / "results" / "gpu.json"


def parse_parts(text: str) -> list[str]:
    parts = text.split(",")
    if unknown := set(parts) - set(LIMITS_S):
        raise argparse.ArgumentTypeError(
            f"found {', '.join(sorted(unknown))}, expected some of {', '.join(LIMITS_S)}"
        )
    return parts


def parse_folder(text: str) -> Path:
    folder = Path(text)
    if not folder.is_dir():
        raise argparse.ArgumentTypeError(f"{text}: found no folder, expected one with images")
    return folder.resolve()


def run_here(args: argparse.Namespace) -> None:
    """Measure one part in this process."""
    from gpu_settings import Settings

    module = import_module(f"gpu_{args.run}")
    figures, rows = module.measure(Settings(args.device, args.quick, args.images))
    report = {"figures": figures, "rows": [asdict(row) for row in rows]}
    args.output.write_text(json.dumps(report, default=lambda value: value.item()))  # of numpy


def run_apart(part: str, args: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Measure one part in a process of its own; a failure is a result, too."""
    result, log = folder / f"{part}.json", folder / f"{part}.log"
    command = [sys.executable, __file__, "--run", part, "--device", args.device]
    command += ["--output", str(result), *(["--quick"] if args.quick else [])]
    command += ["--images", str(args.images)] if args.images else []
    limit_s, started = args.limit or LIMITS_S[part], time.perf_counter()
    with log.open("w") as stream:
        process = subprocess.Popen(
            command, stdout=stream, stderr=stream, cwd=common.ROOT, start_new_session=True
        )
        try:
            code = process.wait(limit_s)
            failure = None if code == 0 else f"exit code {code}"
        except subprocess.TimeoutExpired:
            failure = f"not done after {limit_s:g} s"
        finally:
            if process.poll() is None:  # with what it has started
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
    entry = {"seconds": round(time.perf_counter() - started, 1)}
    if failure is None:
        return entry | json.loads(result.read_text())
    return entry | {"failed": failure, "log": log.read_text().splitlines()[-20:], "rows": []}


def print_table(part: str, entry: dict[str, Any]) -> None:
    print(f"\n{part} ({entry['seconds']} s)")
    for row in entry["rows"]:
        mark = {True: "reached", False: "MISSED", None: ""}[row["holds"]]
        print(f"  {row['what']:<58}  {row['measured']:<40}  {row['compared']:<50}  {mark}".rstrip())
    if "failed" in entry:
        print("  FAILED:", entry["failed"], *entry["log"][-5:], sep="\n    ")
    sys.stdout.flush()


def has_cuda() -> bool:
    import torch

    return torch.cuda.is_available()


def run_all(args: argparse.Namespace) -> int:
    """Measure the parts one after the other; 1 if one failed or missed an aim."""
    from mediar_infer.devices import describe_device, select_device

    device = describe_device(select_device(args.device))
    metadata = common.metadata(device=device, quick=args.quick)
    print(device, "(quick: figures mean nothing)" if args.quick else "")
    results: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        for part in args.parts:
            results[part] = run_apart(part, args, Path(folder))
            print_table(part, results[part])
            common.write_report(args.output, metadata, results)
    print(f"\n{sum(each['seconds'] for each in results.values()):.0f} s; figures: {args.output}")
    rows = [row for each in results.values() for row in each["rows"]]
    is_bad = any("failed" in each for each in results.values())
    has_missed = not args.quick and any(row["holds"] is False for row in rows)
    return int(is_bad or has_missed)


def main() -> int:
    parser = common.make_parser(__doc__)
    parser.add_argument("--device", default="cuda", help="as for predict")
    parser.add_argument(
        "--parts", type=parse_parts, default=list(LIMITS_S), metavar="A,B", help="what is measured"
    )
    parser.add_argument("--images", type=parse_folder, help="images for the comparison of types")
    parser.add_argument("--quick", action="store_true", help="tiny sizes, to try the code")
    parser.add_argument("--limit", type=float, metavar="SECONDS", help="of every part")
    parser.add_argument("--output", type=Path, default=DEFAULT_OUTPUT, help="JSON file to write")
    parser.add_argument("--run", choices=LIMITS_S, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.run:
        run_here(args)
        return 0
    if args.device.startswith("cuda") and not has_cuda():
        print("found no CUDA device that torch can use, expected one; run this on a GPU machine,"
              " or try the code with --device cpu --quick", file=sys.stderr)  # fmt: skip
        return 2
    return run_all(args)


if __name__ == "__main__":
    raise SystemExit(main())
