"""What commands print on stdout: results, or summaries of results that lie in files."""

import logging
import sys

from mediar_infer.errors import OutputError
from mediar_infer.process import discard_stdout

logger = logging.getLogger(__name__)


def escape_controls(text: str) -> str:
    """Escape what a terminal would act on or cannot show, such as a file name with a line break."""
    return "".join(
        character if character.isprintable() else character.encode("unicode_escape").decode()
        for character in text
    )


def print_result(text: str) -> None:
    """Print lines that are the result of a command.

    Nothing happens if the reader has seen enough, as in ``| head -1``.

    Args:
        text: lines without a newline at the end; control characters in them are escaped.

    Raises:
        OutputError: if stdout cannot be written.
    """
    lines = "".join(f"{escape_controls(line)}\n" for line in text.split("\n"))
    try:
        sys.stdout.write(lines)
        sys.stdout.flush()
    except BrokenPipeError:
        discard_stdout()
    except OSError as error:
        discard_stdout()
        raise OutputError(
            f"stdout: cannot be written ({error.strerror}), expected a terminal, pipe or file with"
            " room; send the output elsewhere"
        ) from error


def print_summary(text: str) -> None:
    """Print lines that sum up results which lie in files: losing them loses no result."""
    try:
        print_result(text)
    except OutputError as error:
        logger.warning("%s; all results are on disk", error)
