"""The ``grand-challenge`` command: one job of the platform, by the same engine as ``predict``."""

import argparse
import json
import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr
from dataclasses import dataclass
from pathlib import Path

from mediar_infer.commands.arguments import add_examples
from mediar_infer.commands.options import (
    add_engine_arguments,
    add_reading_arguments,
    to_engine_config,
    to_read_options,
)
from mediar_infer.commands.printing import print_summary
from mediar_infer.commands.start import load_for_process
from mediar_infer.errors import UsageError, list_some
from mediar_infer.grand_challenge.interfaces import (
    TABLE_NAME,
    choose_table,
    find_interface,
    read_interfaces,
    result_path,
)
from mediar_infer.grand_challenge.sockets import find_image, read_sockets
from mediar_infer.network.weight_files import MODEL_DIR, WEIGHTS_VARIABLE, find_weights
from mediar_infer.process import flush_stdout

logger = logging.getLogger(__name__)

_LISTED = 3
"""Names that a warning lists."""
_SUFFIXES = {"tiff": ".tif", "mha": ".mha"}


@dataclass(frozen=True, slots=True)
class PlatformJob:
    """What a job reads and writes."""

    image: Path
    """Image to segment."""
    labels: Path
    """Where its labels go."""
    ignored: tuple[str, ...]
    """Slugs of input sockets that are not read."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of the ``grand-challenge`` command."""
    parser.add_argument(
        "-i", "--input", type=Path, default=Path("/input"), metavar="DIR",
        help="folder with inputs.json (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "-o", "--output", type=Path, default=Path("/output"), metavar="DIR",
        help="folder of results (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "--model", type=Path, default=MODEL_DIR, metavar="DIR",
        help="folder for weights of the platform, used if it holds any (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "--sockets", type=Path, default=_variable("MEDIAR_SOCKETS"), metavar="FILE",
        help="table of interfaces (default: $MEDIAR_SOCKETS, sockets.toml in the model folder, or"
        " the shipped one)",
    )  # fmt: skip
    parser.add_argument(
        "--image-socket", default=_variable("MEDIAR_IMAGE_SOCKET"), metavar="SLUG",
        help="read the image from this socket, whatever the other inputs (default:"
        " $MEDIAR_IMAGE_SOCKET)",
    )  # fmt: skip
    parser.add_argument(
        "--result-socket", default=_variable("MEDIAR_RESULT_SOCKET"), metavar="PATH",
        help="slug or path of the result below the output folder (default: $MEDIAR_RESULT_SOCKET)",
    )  # fmt: skip
    parser.add_argument(
        "--format", choices=("auto", *_SUFFIXES), default="auto",
        help="file format of the labels; auto is that of the image (default: %(default)s)",
    )  # fmt: skip
    add_reading_arguments(parser)
    add_engine_arguments(parser)
    add_examples(
        parser,
        ("run a job as on the platform", "mediar-infer grand-challenge -i input -o output"),
        (
            "read another socket",
            "mediar-infer grand-challenge -i input -o output --image-socket my-cell-image",
        ),
    )


def _variable(name: str) -> str | None:
    """Value of an environment variable; ``None`` if it is unset or empty."""
    return os.environ.get(name) or None


def plan_job(args: argparse.Namespace) -> PlatformJob:
    """Determine what a job reads and writes, before anything slow is imported.

    Raises:
        SocketError: if the inputs are not those of a known interface.
        UsageError: if the table of interfaces cannot be used, or all scenes are asked for.
    """
    if args.scene == "all":
        raise UsageError(
            "found --scene all, expected a number: a job has one result; choose with --scene N"
        )
    interfaces = read_interfaces(choose_table(args.sockets, args.model))
    given = args.result_socket
    sockets = {socket.slug: socket for socket in read_sockets(args.input)}
    interface = find_interface(
        list(sockets),
        interfaces,
        image_slug=args.image_socket,
        result=result_path(given, f"--result-socket {given}") if given else None,
    )
    image = find_image(args.input, sockets[interface.image])
    suffix = _SUFFIXES.get(args.format) or (".mha" if image.suffix.lower() == ".mha" else ".tif")
    return PlatformJob(image, args.output / interface.result / f"output{suffix}", interface.also)


def _find_weights(args: argparse.Namespace) -> list[Path]:
    """Weights of the job; warns if the intended ones seem to be packed wrongly or out of reach."""
    weights = find_weights(args.weights, args.model)
    logger.info("weights from %s", weights[0].parent)
    is_chosen = args.weights or _variable(WEIGHTS_VARIABLE) or weights[0].parent == args.model
    if os.path.lexists(args.model) and not os.access(args.model, os.R_OK | os.X_OK):
        logger.warning(
            "%s: found a folder that may not be read, expected one with weights or a %s, or none;"
            " using weights from %s and, unless another one is named, the shipped %s",
            args.model, TABLE_NAME, weights[0].parent, TABLE_NAME,
        )  # fmt: skip
    elif not is_chosen and os.path.isdir(args.model):  # noqa: PTH112 (no error)
        others = sorted({path.name for path in args.model.iterdir()} - {TABLE_NAME})
        if others:
            logger.warning(
                "%s: found no weight file but %s, expected weights directly in there; using %s",
                args.model, list_some(others, _LISTED), weights[0].parent,
            )  # fmt: skip
    return weights


@contextmanager
def _stderr_on_stdout() -> Iterator[None]:
    """Send to stdout whatever a ``with`` block writes to stderr, C libraries included.

    The platform shows whatever is on stderr as a warning; only what makes a job fail belongs there.
    """
    sys.stderr.flush()
    flush_stdout()
    kept = os.dup(2)
    os.dup2(1, 2)
    try:
        with redirect_stderr(sys.stdout):
            yield
    finally:
        flush_stdout()
        os.dup2(kept, 2)
        os.close(kept)


def run(args: argparse.Namespace) -> int:
    """Run the job; 0 if its labels are written, 1 if not, see also ``mediar_infer.cli.main``."""
    job = plan_job(args)
    config = to_engine_config(args)
    with _stderr_on_stdout():
        if job.ignored:
            logger.info("not read: input sockets %s", ", ".join(job.ignored))
        segmenter = load_for_process(_find_weights(args), config)
        from mediar_infer.folder.console import log_entry, log_unknown_pixel_sizes
        from mediar_infer.folder.options import RunOptions
        from mediar_infer.folder.runner import compute_exit_code, run_image
        from mediar_infer.folder.selection import Selection

        options = RunOptions(
            selection=Selection((job.image,)),
            output_dir=args.output,
            reading=to_read_options(args),
            label_file=job.labels,
        )
        entry = run_image(segmenter, options)
        if entry.status == "done":
            log_entry(entry)
        log_unknown_pixel_sizes([entry])
        if not args.quiet:
            print_summary(json.dumps(entry.to_dict(), allow_nan=False))
    if entry.status == "failed":
        log_entry(entry)
    return compute_exit_code([entry], strict_budget=False)
