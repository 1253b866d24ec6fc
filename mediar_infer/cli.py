"""The command line: options → settings → work → exit code. Handlers and printing live here."""

import argparse
import importlib
import logging
import os
import signal
import sys
import threading
from collections.abc import Callable, Sequence
from types import FrameType
from typing import NoReturn

from mediar_infer._version import __version__
from mediar_infer.errors import CheckpointError, MediarError, UsageError
from mediar_infer.process import return_large_blocks

EXIT_OK, EXIT_FAILED, EXIT_USAGE = 0, 1, 2
_STOPPED = 128
"""This plus the number of a signal is the exit code of a process that it stopped."""

_COMMANDS = {
    "predict": ("mediar_infer.commands.predict", "segment every image of a folder"),
    "evaluate": ("mediar_infer.commands.evaluate", "score label files as the challenge does"),
    "challenge": (
        "mediar_infer.commands.challenge",
        "judge a submission as the organisers do",
    ),
    "submission": ("mediar_infer.commands.submission", "zip a checked set of label files"),
    "weights": ("mediar_infer.commands.weights", "list, verify or convert weight files"),
    "info": ("mediar_infer.commands.info", "show device, versions, memory and models"),
    "grand-challenge": (
        "mediar_infer.commands.grand_challenge",
        "run a job of grand-challenge.org: one image in, its labels out",
    ),
    "demo": ("mediar_infer.commands.demo", "segment a few real and generated images"),
}
"""Command → module with ``add_arguments(parser)`` and ``run(args) -> exit code``, and its help."""


def build_parser(command: str | None = None) -> argparse.ArgumentParser:
    """Build the parser; only the named command's module is imported, as imports cost seconds."""
    parser = argparse.ArgumentParser(
        prog="mediar_infer", description="MEDIAR cell segmentation: images in, labels out."
    )
    parser.add_argument("--version", action="version", version=f"mediar_infer {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, (module, help_text) in _COMMANDS.items():
        child = commands.add_parser(name, help=help_text, description=help_text)
        add_logging_options(child)
        if command == name:
            importlib.import_module(module).add_arguments(child)
    return parser


class _ProgressSafeHandler(logging.Handler):
    """Writes lines to stderr without tearing a progress bar."""

    def emit(self, record: logging.LogRecord) -> None:
        """Write one line."""
        from tqdm import tqdm

        tqdm.write(self.format(record), file=sys.stderr)


def add_logging_options(parser: argparse.ArgumentParser) -> None:
    """Add ``--quiet`` and ``--verbose``."""
    parser.add_argument("--quiet", action="store_true", help="show errors only")
    parser.add_argument("--verbose", action="store_true", help="show shapes and timings too")


def set_up_logging(level: int) -> None:
    """Write the package's log lines of a level and above to stderr."""
    handler = _ProgressSafeHandler()
    handler.setFormatter(logging.Formatter("%(levelname)s %(message)s"))
    package = logging.getLogger("mediar_infer")
    package.handlers[:] = [handler]
    package.setLevel(level)
    package.propagate = False
    # Our own errors say what is wrong with a file.
    logging.getLogger("tifffile").setLevel(logging.CRITICAL)


def _stop(signum: int, _frame: FrameType | None) -> NoReturn:
    # Leaving through an exception lets the open label file remove its temporary copy.
    raise SystemExit(_STOPPED + signum)


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command.

    Args:
        argv: arguments without the program's name; those of the process by default.

    Returns:
        0 all done, 1 some image failed or a result could not be written, 2 wrong use.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    command = arguments[0] if arguments and arguments[0] in _COMMANDS else None
    args = build_parser(command).parse_args(arguments)
    return_large_blocks()
    stopped = "stopped; finished images are in the output folder"
    return run_command(_COMMANDS[args.command][0], args, stopped)


def run_command(module: str, args: argparse.Namespace, stopped: str) -> int:
    """Run a command's module with logging set up; errors become a line and an exit code.

    Args:
        module: has ``run(args) -> exit code``.
        args: with ``quiet`` and ``verbose``.
        stopped: what to say after an interrupt from the keyboard.

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
    except KeyboardInterrupt:
        logging.getLogger(__name__).error("%s", stopped)
        return _STOPPED + signal.SIGINT
    return code


def run_process(command: Callable[[], int] = main) -> NoReturn:
    """Run the command of this process and leave it.

    Once all results are on disk and no thread is left, what is in memory is left to the system,
    which frees it at once: the interpreter and the libraries would take a third of a second. A
    process that was stopped is left at once, too: taking libraries apart whose threads are still
    computing can crash it.

    Args:
        command: gives the exit code.
    """
    try:
        code = command()
    except SystemExit as stop:
        if not isinstance(stop.code, int) or stop.code < _STOPPED:
            raise
        # here and not below, as what is at work lives as long as this exception does
        _leave(stop.code)
    if code < _STOPPED and threading.active_count() > 1:
        raise SystemExit(code)
    _leave(code)


def _leave(code: int) -> NoReturn:
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
