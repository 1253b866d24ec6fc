"""The command line: options → settings → work → exit code. Log handlers are set up here."""

import argparse
import importlib
import logging
import os
import signal
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from types import FrameType
from typing import Final, NoReturn

from mediar_infer._version import __version__
from mediar_infer.commands.limits import explain_limits, survive_address_limit
from mediar_infer.commands.parser import CommandParser
from mediar_infer.commands.printing import escape_controls
from mediar_infer.errors import CheckpointError, MediarError, UsageError
from mediar_infer.process import (
    flush_stdout,
    has_busy_threads,
    protect_streams,
    return_large_blocks,
    unfreed,
)

PROGRAM: Final = "mediar-infer"
SHELLS: Final = ("bash", "zsh", "fish", "tcsh")
EXIT_OK, EXIT_FAILED, EXIT_USAGE = 0, 1, 2
_STOPPED = 128
"""Added to the number of a signal, the exit code of a process that the signal stopped."""

_COMMANDS = {
    "predict": ("mediar_infer.commands.predict", "segment every image of a folder"),
    "evaluate": ("mediar_infer.commands.evaluate", "score label files by the challenge's metric"),
    "export": (
        "mediar_infer.commands.export",
        "export label files as ImageJ ROIs, GeoJSON, a table or OME-Zarr",
    ),
    "ledger": ("mediar_infer.commands.ledger", "merge the ledgers of the parts of a run"),
    "challenge": (
        "mediar_infer.commands.challenge",
        "evaluate a submission under the organisers' protocol",
    ),
    "submission": ("mediar_infer.commands.submission", "check a set of label files and zip it"),
    "weights": ("mediar_infer.commands.weights", "list, verify or convert weight files"),
    "info": ("mediar_infer.commands.info", "show machine, versions and models"),
    "grand-challenge": (
        "mediar_infer.commands.grand_challenge",
        "run a job of grand-challenge.org: one image in, its labels out",
    ),
    "demo": ("mediar_infer.commands.demo", "segment a few real and generated images"),
}
"""Command → module with ``add_arguments(parser)`` and ``run(args) -> exit code``, and its help."""


def build_parser(*commands: str) -> argparse.ArgumentParser:
    """Build the parser.

    Args:
        commands: those that get their options. Only their modules are imported, which costs time.
    """
    parser = CommandParser(
        prog=PROGRAM, description="MEDIAR cell segmentation: images in, labels out."
    )
    _add_version(parser, help="show the version and exit")
    parser.add_argument(
        "--print-completion", action=_PrintCompletion, choices=SHELLS,
        help="print a script that completes commands, options and paths in this shell",
    )  # fmt: skip
    children = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, (module, help_text) in _COMMANDS.items():
        child = children.add_parser(name, help=help_text, description=help_text)
        if name in commands:
            importlib.import_module(module).add_arguments(child)
        add_logging_options(child)
        # For 'docker run mediar --version', whose options are those of predict.
        _add_version(child, help=argparse.SUPPRESS)
    return parser


def _add_version(parser: argparse.ArgumentParser, *, help: str) -> None:
    version = f"{PROGRAM} {__version__}"
    parser.add_argument("--version", action="version", version=version, help=help)


class _PrintCompletion(argparse.Action):
    """Prints the script and exits, as ``--help`` does."""

    def __call__(self, parser: argparse.ArgumentParser, *values: object) -> NoReturn:
        """Print the script for a shell."""
        from mediar_infer.commands.completion import completion_script

        sys.stdout.write(completion_script(build_parser(*_COMMANDS), str(values[1])))
        parser.exit()


class _ProgressSafeHandler(logging.Handler):
    """Writes lines to stderr without tearing a progress bar."""

    def emit(self, record: logging.LogRecord) -> None:
        """Write one line."""
        from tqdm import tqdm

        with suppress(OSError):  # a lost line must not end the run
            tqdm.write(self.format(record), file=sys.stderr)


class _OneLineFormatter(logging.Formatter):
    """Escapes control characters: a file name may hold them, and could forge lines of the log."""

    def formatMessage(self, record: logging.LogRecord) -> str:
        """Format level and message; a traceback is added below them."""
        return escape_controls(super().formatMessage(record))


def add_logging_options(parser: argparse.ArgumentParser) -> None:
    """Add ``--quiet`` and ``--verbose``."""
    parser.add_argument("--quiet", action="store_true", help="show errors only")
    parser.add_argument("--verbose", action="store_true", help="show timings and tracebacks too")


def set_up_logging(level: int) -> None:
    """Write the package's log lines of a level and above to stderr."""
    handler = _ProgressSafeHandler()
    handler.setFormatter(_OneLineFormatter("%(levelname)s %(message)s"))
    package = logging.getLogger("mediar_infer")
    package.handlers[:] = [handler]
    package.setLevel(level)
    package.propagate = False
    # The package's own errors say what is wrong with a file.
    logging.getLogger("tifffile").setLevel(logging.CRITICAL)


def _stop(signum: int, _frame: FrameType | None) -> NoReturn:
    # Leaving through an exception lets the open label file remove its temporary copy.
    raise SystemExit(_STOPPED + signum)


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command.

    Args:
        argv: arguments without the program's name; those of the process by default.

    Returns:
        0 for success, 1 if an image failed or a result could not be written, 2 for wrong use.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    named = [each for each in arguments if each in _COMMANDS]
    args = build_parser(*named[:1]).parse_args(arguments)
    return_large_blocks()
    stopped = "interrupted"
    if args.command == "predict":
        stopped += "; finished images are in the output folder; rerun with --resume to do the rest"
    return run_command(_COMMANDS[args.command][0], args, stopped)


def run_command(module: str, args: argparse.Namespace, stopped: str) -> int:
    """Run a command's module with logging set up; errors become a line and an exit code.

    Args:
        module: name of a module with ``run(args) -> exit code``.
        args: parsed options, ``quiet`` and ``verbose`` among them.
        stopped: what to log after an interrupt from the keyboard.

    Returns:
        The command's exit code; 1 for bad data or a result that cannot be written, 2 for wrong
        use.
    """
    level = logging.ERROR if args.quiet else logging.DEBUG if args.verbose else logging.INFO
    set_up_logging(level)
    signal.signal(signal.SIGTERM, _stop)
    try:
        code: int = importlib.import_module(module).run(args)
    except (UsageError, CheckpointError) as error:
        logging.getLogger(__name__).error("%s", error)
        return EXIT_USAGE
    except MediarError as error:
        logging.getLogger(__name__).error("%s", error)
        return EXIT_FAILED
    except (KeyboardInterrupt, Exception) as error:
        explanation = explain_limits(error)
        if explanation is None and not isinstance(error, KeyboardInterrupt):
            raise
        logging.getLogger(__name__).error("%s", explanation or stopped)
        return _STOPPED + signal.SIGINT if explanation is None else EXIT_FAILED
    return code


def run_process(command: Callable[[], int] = main) -> NoReturn:
    """Run the command of this process and exit.

    Once all results are on disk and no other thread is busy, the system frees the memory, which
    takes no time: the interpreter and the libraries would need a third of a second. A process that
    was stopped exits at once, too: tearing down libraries whose threads still compute can crash it.

    Args:
        command: returns the exit code.
    """
    protect_streams()
    survive_address_limit(_report_crash)
    unfreed.turn_on()
    try:
        code = command()
    except SystemExit as stop:
        flush_stdout()
        if not isinstance(stop.code, int) or stop.code < _STOPPED:
            unfreed.free()
            raise
        # Here and not below, as this exception keeps unfinished work alive.
        _leave(stop.code)
    flush_stdout()
    if code < _STOPPED and has_busy_threads():
        unfreed.free()
        raise SystemExit(code)
    _leave(code)


def _report_crash(message: str) -> None:
    set_up_logging(logging.ERROR)
    logging.getLogger(__name__).error("%s", message)


def _leave(code: int) -> NoReturn:
    logging.shutdown()
    sys.stderr.flush()
    os._exit(code)
