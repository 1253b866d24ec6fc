"""Options that several commands share, and what follows from them."""

import argparse
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Final, TypeVar

from mediar_infer.commands.arguments import NONE, add_option
from mediar_infer.config import (
    ALL_FLIPS,
    PLANS,
    CellSize,
    EngineConfig,
    FlipName,
    MaskConfig,
    Plan,
    RuntimeConfig,
    parse_flow_threshold,
    parse_scale,
)
from mediar_infer.errors import UsageError
from mediar_infer.exports.options import ExportOptions
from mediar_infer.folder.ledger import LEDGER_VARIABLE, NO_LEDGER
from mediar_infer.images.limits import ReadOptions

_Value = TypeVar("_Value")

BUDGET_SCALE: Final = 0.85
"""Fraction of the time tolerance that ``--fit-budget`` aims at."""


def add_engine_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options that decide how images are segmented."""
    plan = parser.add_argument_group("plan (what to compute)")
    add_weights_argument(plan)
    add_option(plan, EngineConfig, "plan", choices=PLANS, default=Plan().name)
    plan_text = {"default": None, "default_text": "that of the plan"}
    add_option(plan, Plan, "max_members", "--models", choices=(1, 2), **plan_text)
    add_option(
        plan, Plan, "flips", metavar="LIST", note=f"; separated by commas, or {NONE}", **plan_text
    )
    add_option(plan, Plan, "overlap", **plan_text)
    add_option(plan, Plan, "packed")
    sizes = parser.add_argument_group("size of cells")
    add_option(sizes, EngineConfig, "scale", type=_as_argument(parse_scale), metavar="X")
    add_option(sizes, EngineConfig, "cell_size", type=_as_argument(CellSize.parse), metavar="SIZE")
    runtime = parser.add_argument_group("machine (where and how fast)")
    for name in ("device", "precision", "backend", "batch", "threads"):
        add_option(runtime, RuntimeConfig, name)
    labels = parser.add_argument_group("labels")
    add_option(labels, MaskConfig, "blocks")
    add_option(labels, MaskConfig, "block_size", metavar="PX")
    add_option(labels, MaskConfig, "cellprob_threshold")
    add_option(
        labels, MaskConfig, "flow_threshold", type=_as_argument(parse_flow_threshold), metavar="X"
    )
    add_option(
        labels, MaskConfig, "fill_holes", "--released-holes", dest="fill_holes",
        action="store_false",
        help="leave the holes that cells of the released system have; by default background that"
        " one cell alone encloses belongs to it",
    )  # fmt: skip


def add_weights_argument(parser: argparse._ActionsContainer) -> None:
    """Add ``--weights``."""
    parser.add_argument(
        "--weights", type=Path, nargs="+", default=[], metavar="PATH",
        help="folder of weights, or one or two weight files (default: the shipped pair)",
    )  # fmt: skip


def add_reading_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options that decide how images are read."""
    group = parser.add_argument_group("images (what is read)")
    add_option(group, ReadOptions, "plane")
    add_option(group, ReadOptions, "project", choices=("max",))
    add_option(group, ReadOptions, "scene", type=_parse_scene, metavar="N")
    for name in ("max_pixels", "apply_orientation"):
        add_option(group, ReadOptions, name)
    add_option(group, ReadOptions, "channels", type=_parse_channels, metavar="LIST")
    add_pixel_size_argument(group)


def add_pixel_size_argument(parser: argparse._ActionsContainer) -> None:
    """Add ``--pixel-size``."""
    add_option(
        parser, ReadOptions, "pixel_size_um", "--pixel-size", type=_parse_pixel_size, metavar="UM"
    )


def add_result_arguments(parser: argparse._ActionsContainer) -> None:
    """Add the options that say what to make of label files."""
    for name in ("rois", "geojson", "gzip", "zarr"):
        add_option(parser, ExportOptions, name)
    add_option(parser, ExportOptions, "table", metavar="FILE")


def to_export_options(args: argparse.Namespace) -> ExportOptions:
    """Turn the options of ``add_result_arguments`` into settings."""
    return ExportOptions(
        rois=args.rois, geojson=args.geojson, gzip=args.gzip, zarr=args.zarr, table=args.table
    )


def add_ledger_argument(parser: argparse.ArgumentParser) -> None:
    """Add ``--ledger``."""
    parser.add_argument(
        "--ledger", metavar="DIR",
        help=f"folder of ledger and summary, or {NO_LEDGER} for neither (default:"
        f" ${LEDGER_VARIABLE} if set, else the output folder)",
    )  # fmt: skip


def add_budget_arguments(parser: argparse.ArgumentParser) -> None:
    """Add ``--fit-budget`` and what goes with it."""
    parser.add_argument(
        "--fit-budget", action="store_true",
        help="use cheaper plans where the chosen one would miss the time tolerance",
    )  # fmt: skip
    parser.add_argument(
        "--budget-scale", type=float, metavar="X",
        help="with --fit-budget: fraction of the time tolerance to aim at, above 0 and up to 1"
        f" (default: {BUDGET_SCALE})",
    )  # fmt: skip
    add_option(parser, EngineConfig, "outside_s", "--budget-outside", metavar="S")


def to_engine_config(args: argparse.Namespace) -> EngineConfig:
    """Turn the options of ``add_engine_arguments`` into settings.

    Raises:
        UsageError: if a value is out of its range.
    """
    plan = PLANS[args.plan]
    if args.models is not None:
        plan = replace(plan, max_members=args.models)
    if args.overlap is not None:
        plan = replace(plan, overlap=args.overlap)
    if args.packed:
        plan = replace(plan, packed=True)
    if args.flips is not None:
        plan = replace(plan, flips=_parse_flips(args.flips))
    if plan != PLANS[args.plan]:
        plan = replace(plan, name="custom")
    return EngineConfig(
        plan=plan,
        masks=MaskConfig(
            cellprob_threshold=args.cellprob_threshold,
            flow_threshold=args.flow_threshold,
            fill_holes=args.fill_holes,
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
        scale=args.scale,
        cell_size=args.cell_size,
    )


def to_read_options(args: argparse.Namespace) -> ReadOptions:
    """Turn the options of ``add_reading_arguments`` into settings.

    Raises:
        UsageError: if a value is out of its range.
    """
    return ReadOptions(
        plane=args.plane,
        project=args.project,
        scene=args.scene,
        max_pixels=args.max_pixels,
        channels=args.channels,
        apply_orientation=args.apply_orientation,
        pixel_size_um=args.pixel_size,
    )


def to_budget_scale(args: argparse.Namespace) -> float | None:
    """Fraction of the time tolerance to aim at; ``None`` without ``--fit-budget``.

    Raises:
        UsageError: if what goes with a budget is given without one.
    """
    if not args.fit_budget:
        for name, value in ("scale", args.budget_scale), ("outside", args.budget_outside or None):
            if value is not None:
                raise UsageError(
                    f"found --budget-{name} {value} without --fit-budget, expected both; add"
                    " --fit-budget"
                )
        return None
    return BUDGET_SCALE if args.budget_scale is None else float(args.budget_scale)


def to_ledger_dir(args: argparse.Namespace) -> Path | None:
    """Folder of ledger and summary; ``None`` if neither is wanted."""
    named = args.ledger or os.environ.get(LEDGER_VARIABLE)
    if named == NO_LEDGER:
        return None
    return Path(named) if named else Path(args.output)


def _parse_flips(text: str) -> tuple[FlipName, ...]:
    names = ["identity"] if text == NONE else [name.strip() for name in text.split(",")]
    unknown = [name for name in names if name not in ALL_FLIPS]
    if unknown:
        raise UsageError(
            f"--flips {text}: found {', '.join(unknown)}, expected {NONE} or some of"
            f" {', '.join(ALL_FLIPS)}"
        )
    return tuple(flip for flip in ALL_FLIPS if flip in names)


def _parse_scene(text: str) -> int | str:
    return int(text) if text.isdecimal() else text


def _parse_pixel_size(text: str) -> tuple[float, float]:
    """``UM``, or ``Y,X`` for pixels that are not square."""
    try:
        height, *width = (float(number) for number in text.split(","))
        (width_or_same,) = width or [height]
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"found {text!r}, expected µm: one number, or height,width"
        ) from None
    return height, width_or_same


def _as_argument(parse: Callable[[str], _Value]) -> Callable[[str], _Value]:
    """A parser of values as argparse wants one, which says itself which option is at fault."""

    def parse_argument(text: str) -> _Value:
        try:
            return parse(text)
        except UsageError as error:
            raise argparse.ArgumentTypeError(str(error)) from None

    return parse_argument


def _parse_channels(text: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in text.split(","))
