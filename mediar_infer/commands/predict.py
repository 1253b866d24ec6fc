"""The ``predict`` command: the main job."""

import argparse
import gc
import logging
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from mediar_infer.config import (
    ALL_FLIPS,
    PLANS,
    EngineConfig,
    FlipName,
    MaskConfig,
    Plan,
    RuntimeConfig,
)
from mediar_infer.errors import UsageError
from mediar_infer.folder.ledger_folder import LEDGER_VARIABLE, NO_LEDGER

if TYPE_CHECKING:
    from mediar_infer.segmenter import Segmenter

logger = logging.getLogger(__name__)

DEFAULT_INPUT = Path("/workspace/inputs")
DEFAULT_OUTPUT = Path("/workspace/outputs")
DEFAULT_BUDGET_SCALE = 0.85
_START_SWITCH_S = 0.0005


def add_engine_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options that decide how images are segmented; other commands share them."""
    plan = parser.add_argument_group("plan (what is computed)")
    plan.add_argument(
        "--weights", type=Path, nargs="+", default=[], metavar="PATH",
        help="folder, or one or two files (default: the pair that comes with the package)",
    )  # fmt: skip
    plan.add_argument("--plan", choices=PLANS, default="paper", help="(default: %(default)s)")
    plan.add_argument("--models", type=int, metavar="N", help="use the first N models")
    plan.add_argument(
        "--flips", metavar="LIST", help=f"comma-separated: {','.join(ALL_FLIPS)}, or none"
    )
    plan.add_argument("--overlap", type=float, help="overlap of windows, 0 to 0.95")
    runtime = parser.add_argument_group("machine (where and how fast)")
    runtime.add_argument(
        "--device", default="auto", help="auto, cpu, cuda, cuda:N, mps (default: %(default)s)"
    )
    runtime.add_argument(
        "--precision", choices=("auto", "float32", "float16", "bfloat16"), default="auto"
    )
    runtime.add_argument("--backend", choices=("auto", "torch", "openvino"), default="auto")
    runtime.add_argument("--batch", type=int, default=0, help="windows per call (0: automatic)")
    runtime.add_argument("--threads", type=int, default=0, help="CPU threads (0: all cores)")
    labels = parser.add_argument_group("labels")
    labels.add_argument(
        "--blocks", choices=("auto", "paper", "stitched"), default="auto",
        help="how images of 25 MP or more are labelled (default: stitched, no cell is cut)",
    )  # fmt: skip
    labels.add_argument("--block-size", type=int, default=0, metavar="PX")
    labels.add_argument(
        "--cellprob-threshold", type=float, default=0.5, metavar="P",
        help="pixels above it are cells (default: %(default)s)",
    )  # fmt: skip
    labels.add_argument(
        "--flow-threshold", type=_parse_flow_threshold, default=0.4, metavar="E",
        help="cells with a larger flow error are removed, 'off' keeps all (default: %(default)s)",
    )  # fmt: skip


def add_reading_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options that decide how images are read; other commands share them."""
    parser.add_argument("--plane", type=int, metavar="N", help="plane to take from z/t-stacks")
    parser.add_argument(
        "--max-pixels", type=int, metavar="N", help="refuse larger images (decompression bombs)"
    )


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of the ``predict`` command."""
    parser.add_argument(
        "-i", "--input", type=Path, default=DEFAULT_INPUT,
        help="folder of images, or one image (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "-o", "--output", type=Path, default=DEFAULT_OUTPUT,
        help="folder of results (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "--ledger", metavar="DIR",
        help=f"folder of ledger and summary, or {NO_LEDGER}"
        f" (default: ${LEDGER_VARIABLE} if set, else the output folder)",
    )  # fmt: skip
    parser.add_argument("--resume", action="store_true", help="skip images that are done")
    parser.add_argument("--overlays", action="store_true", help="also write outlines as PNG")
    parser.add_argument(
        "--strict-budget", action="store_true", help="a missed tolerance is a failure"
    )
    parser.add_argument(
        "--fit-budget", action="store_true",
        help="take cheaper plans where the chosen one would miss the time tolerance",
    )  # fmt: skip
    parser.add_argument(
        "--budget-scale",
        type=float,
        metavar="X",
        help=f"fraction of the tolerance to aim at (default: {DEFAULT_BUDGET_SCALE})",
    )
    parser.add_argument(
        "--dask", metavar="SCHEDULER",
        help="spread the work over a Dask cluster: address of its scheduler, or local:N for N"
        " processes on this machine",
    )  # fmt: skip
    add_reading_arguments(parser)
    add_engine_arguments(parser)


def engine_config(args: argparse.Namespace) -> EngineConfig:
    """Turn parsed options into settings.

    Raises:
        UsageError: if a value is out of its range.
    """
    plan: Plan = PLANS[args.plan]
    if args.models is not None:
        plan = replace(plan, max_members=args.models)
    if args.overlap is not None:
        plan = replace(plan, overlap=args.overlap)
    if args.flips is not None:
        plan = replace(plan, flips=_parse_flips(args.flips))
    if plan != PLANS[args.plan]:
        plan = replace(plan, name="custom")
    return EngineConfig(
        plan=plan,
        masks=MaskConfig(
            cellprob_threshold=args.cellprob_threshold,
            flow_threshold=args.flow_threshold,
            blocks=args.blocks,
            block_size=args.block_size,
        ),
        runtime=RuntimeConfig(
            device=args.device,
            precision=args.precision,
            backend=args.backend,
            batch=args.batch,
            threads=args.threads,
        ),
    )


def budget_scale(args: argparse.Namespace) -> float | None:
    """Fraction of the tolerance to aim at; none without ``--fit-budget``.

    Raises:
        UsageError: if a scale is given without a budget to scale.
    """
    if not args.fit_budget and args.budget_scale is not None:
        raise UsageError(
            f"found --budget-scale {args.budget_scale} without --fit-budget, expected both; add"
            " --fit-budget"
        )
    if not args.fit_budget:
        return None
    return DEFAULT_BUDGET_SCALE if args.budget_scale is None else float(args.budget_scale)


def ledger_dir(args: argparse.Namespace) -> Path | None:
    """Folder of ledger and summary; none if there shall be none."""
    named = args.ledger or os.environ.get(LEDGER_VARIABLE)
    if named == NO_LEDGER:
        return None
    return Path(named) if named else Path(args.output)


def _parse_flow_threshold(text: str) -> float | None:
    return None if text == "off" else float(text)


def _parse_flips(text: str) -> tuple[FlipName, ...]:
    names = ["identity"] if text == "none" else [name.strip() for name in text.split(",")]
    unknown = [name for name in names if name not in ALL_FLIPS]
    if unknown:
        raise UsageError(
            f"--flips {text}: found {', '.join(unknown)}, expected none or some of"
            f" {', '.join(ALL_FLIPS)}"
        )
    return tuple(flip for flip in ALL_FLIPS if flip in names)


@contextmanager
def _starting() -> Iterator[None]:
    """Keep the garbage collector from what is imported and loaded in a ``with`` block.

    It would look through a million new objects again and again, though all of them live as long as
    the process. Threads get their turn sooner than they would by default.
    """
    interval = sys.getswitchinterval()
    sys.setswitchinterval(_START_SWITCH_S)
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()
        sys.setswitchinterval(interval)


def load_segmenter(weights: Sequence[Path], config: EngineConfig) -> "Segmenter":
    """Load the models of a new process; torch is imported while weights are read or compiled.

    Raises:
        CheckpointError: if weights are missing, damaged or of another network.
        UsageError: if the device is not there.
    """
    with _starting():
        from mediar_infer.network.pending_weights import Loading

        loading = Loading(weights, config)
        loading.wait_for_interpreter()
        # What the run needs beside the models is imported here too, meanwhile.
        from mediar_infer.folder import runner  # noqa: F401
        from mediar_infer.segmenter import Segmenter

        return Segmenter.from_weights(weights, config, loading)


def run(args: argparse.Namespace) -> int:
    """Segment the folder; see :func:`mediar_infer.cli.main` for the exit code."""
    config = replace(engine_config(args), fit_budget=budget_scale(args))
    if not args.input.exists():
        raise UsageError(f"{args.input}: there is no such folder or file; give it with --input")
    segmenter = load_segmenter(args.weights, config) if args.dask is None else None
    from mediar_infer.folder.ledger import console_table
    from mediar_infer.folder.options import RunOptions
    from mediar_infer.folder.runner import exit_code, run_folder

    options = RunOptions(
        input_path=args.input,
        output_dir=args.output,
        ledger_dir=ledger_dir(args),
        plane=args.plane,
        max_pixels=args.max_pixels,
        resume=args.resume,
        overlays=args.overlays,
        show_progress=sys.stderr.isatty() and not args.quiet,
    )
    if segmenter is None:
        from mediar_infer.cluster.client import run_on_cluster

        records = run_on_cluster(args.dask, args.weights, config, options)
    else:
        for name, digest in segmenter.digests.items():
            logger.info("weights %s, SHA-256 %s", name, digest[:16])
        records = run_folder(segmenter, options)
    if not args.quiet:
        sys.stdout.write(console_table(records) + "\n")
        sys.stdout.write(f"results in {args.output}\n")
    return exit_code(records, strict_budget=args.strict_budget)
