"""The ``challenge`` command: the organisers' protocol, one fresh container or process per image."""

import argparse
import logging
import math
import shlex
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from mediar_infer.challenge.launchers import (
    ORGANISERS_COMMAND,
    ContainerLauncher,
    Launcher,
    ProcessLauncher,
    parse_bytes,
)
from mediar_infer.challenge.machine import describe_machine
from mediar_infer.challenge.page import PAGE_NAME, write_verdict
from mediar_infer.challenge.protocol import LABELS_DIR, check_images, find_truth, judge_image
from mediar_infer.challenge.records import (
    RESULTS_NAME,
    ChallengeRecord,
    Verdict,
    outside_lines,
    results_table,
    verdict_line,
    write_results,
)
from mediar_infer.commands.arguments import add_examples
from mediar_infer.commands.printing import print_summary
from mediar_infer.errors import UsageError
from mediar_infer.images.listing import list_entries, list_images
from mediar_infer.output_files import to_output_error

logger = logging.getLogger(__name__)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of the ``challenge`` command."""
    parser.add_argument(
        "-i", "--input", type=Path, required=True, metavar="DIR", help="folder of images"
    )
    parser.add_argument(
        "-o", "--output", type=Path, required=True, metavar="DIR",
        help=f"folder for labels, {RESULTS_NAME} and {PAGE_NAME}",
    )  # fmt: skip
    parser.add_argument(
        "--gt", type=Path, metavar="DIR", help="folder of true label files, to compute F1"
    )
    parser.add_argument(
        "--without-images", action="store_true",
        help="show only outlines on the page, for images that cannot be shared",
    )  # fmt: skip
    parser.add_argument(
        "--timeout", type=float, metavar="S", help="stop a run after this many seconds"
    )
    parser.add_argument(
        "--memory", default="28g", metavar="SIZE",
        help="memory limit of one run (default: %(default)s)",
    )  # fmt: skip
    _add_run_arguments(parser)
    add_examples(
        parser,
        ("try this package on a folder", "mediar-infer challenge -i images -o judged --gt truth"),
        (
            "evaluate a container image",
            "mediar-infer challenge -i images -o judged --engine docker --image team:latest",
        ),
        ("pass options on", "mediar-infer challenge -i images -o judged -- --fit-budget"),
    )


def _add_run_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options that say what is run for each image."""
    runs = parser.add_argument_group("what to run for each image")
    runs.add_argument(
        "--engine", choices=("process", "docker", "podman"), default="process",
        help="predict of this package, or a container (default: %(default)s)",
    )  # fmt: skip
    runs.add_argument("--image", metavar="NAME", help="container image, whoever built it")
    runs.add_argument("--gpus", metavar="LIST", help="GPUs of the container, such as device=0")
    runs.add_argument(
        "--network", default="none", metavar="NAME",
        help="network of the container; 'default' leaves it to the engine (default: %(default)s)",
    )  # fmt: skip
    runs.add_argument(
        "--command", dest="shell_command", default=ORGANISERS_COMMAND, metavar="LINE",
        help="shell command in the container (default: %(default)s)",
    )  # fmt: skip
    runs.add_argument(
        "options", nargs=argparse.REMAINDER, metavar="-- OPTIONS",
        help="options passed on to predict, or appended to the shell command",
    )  # fmt: skip


def run(args: argparse.Namespace) -> int:
    """Evaluate every image; 1 if anything breaks the contract.

    Raises:
        UsageError: if options, images, true labels or the container engine cannot be used.
        OutputError: if the results cannot be written.
    """
    launcher = _make_launcher(args)
    memory_limit_bytes = parse_bytes(args.memory)
    images, skipped = list_images(args.input)
    check_images(images)
    for skipped_file in skipped:
        logger.warning("%s: skipped, %s", skipped_file.path.name, skipped_file.reason)
    truth = find_truth(images, args.gt) if args.gt else {}
    head = {
        **launcher.describe(),
        "memory_limit_bytes": memory_limit_bytes,
        "started_at": datetime.now(UTC).astimezone().isoformat(timespec="seconds"),
        "machine": describe_machine(),
    }
    _make_output_folder(args.output)
    records: list[ChallengeRecord] = []
    verdict: Verdict = "stopped"
    try:
        for number, path in enumerate(images, start=1):
            record = judge_image(
                path, launcher, args.output,
                memory_limit_bytes=memory_limit_bytes, truth=truth.get(path.name),
            )  # fmt: skip
            records.append(record)
            write_results(args.output, head, "stopped", records)
            _log_image(f"{number}/{len(images)}", record)
        verdict = "breached" if any(each.findings for each in records) else "passed"
    finally:
        if records:
            write_results(args.output, head, verdict, records)
            shown = {} if args.without_images else {path.name: path for path in images}
            write_verdict(args.output, head, verdict, records, shown)
            _print_results(verdict, records, args.output)
    return int(verdict != "passed")


def _make_launcher(args: argparse.Namespace) -> Launcher:
    """Launcher that the options ask for.

    Raises:
        UsageError: if they exclude each other.
    """
    options = tuple(option for option in args.options if option != "--")
    if args.timeout is not None and not 0 < args.timeout < math.inf:  # not NaN either
        raise UsageError(
            f"found --timeout {args.timeout:g}, expected a finite number of seconds above 0; omit"
            " it to let runs take as long as they need"
        )
    if args.engine == "process":
        if args.image or args.gpus or args.shell_command != ORGANISERS_COMMAND:
            raise UsageError(
                "found --image, --gpus or --command, expected a container; add --engine docker"
            )
        return ProcessLauncher(options=options, timeout_s=args.timeout)
    if not args.image:
        raise UsageError(f"found --engine {args.engine} without an image; name it with --image")
    if ":" in str(args.output.resolve()):
        raise UsageError(
            f"{args.output}: found a colon, expected a path that can be mounted; choose another"
            " --output"
        )
    return ContainerLauncher(
        engine=args.engine,
        image=args.image,
        command=" ".join([args.shell_command, *map(shlex.quote, options)]),
        memory=args.memory,
        gpus=args.gpus,
        network=None if args.network == "default" else args.network,
        timeout_s=args.timeout,
    )


def _make_output_folder(folder: Path) -> None:
    """Create the folder of results.

    Raises:
        UsageError: if it holds labels of an earlier run, which would mix with the new ones, or
            cannot be listed.
        OutputError: if it cannot be created.
    """
    labels = folder / LABELS_DIR
    try:
        labels.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise to_output_error(labels, error) from error
    if list_entries(labels, "an empty folder"):
        raise UsageError(
            f"{labels}: found files in it, expected an empty folder; remove them or choose another"
            " --output"
        )


def _log_image(number: str, record: ChallengeRecord) -> None:
    seconds = (record.outcome.wall_s, record.tolerance_s or math.nan)
    outcome = record.breached or "ok"
    logger.info("%s %s: %.2f s of %.1f s, %s", number, record.image, *seconds, outcome)


def _print_results(verdict: Verdict, records: Sequence[ChallengeRecord], folder: Path) -> None:
    findings = [str(each) for record in records for each in record.findings]
    lines = [
        results_table(records),
        "",
        *findings,
        *outside_lines(records),
        verdict_line(verdict, records),
        f"labels, {RESULTS_NAME} and {PAGE_NAME} in {folder}",
    ]
    print_summary("\n".join(lines))
