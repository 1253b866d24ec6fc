"""CSV files with a header: read with the place of every line for errors, written atomically."""

import csv
import io
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from mediar_infer.errors import DataError, UsageError
from mediar_infer.output_files import write_bytes

# File names that are not UTF-8 pass through the table unchanged.
_ENCODING_ERRORS = "surrogateescape"


def encode_text(text: str) -> bytes:
    """Bytes of what ``read_rows`` has read: UTF-8, or the bytes of a file that is not."""
    return text.encode("utf-8", _ENCODING_ERRORS)


def read_rows(
    path: Path, columns: Sequence[str], expected: str
) -> Iterator[tuple[str, dict[str, str]]]:
    """Read the lines of a CSV file.

    Args:
        path: the file; UTF-8, a byte-order mark is allowed.
        columns: what must be in the header.
        expected: what the file should be, for errors.

    Yields:
        Place of the line for errors (file and line number), and column → value. Cells that a short
        line lacks are empty.

    Raises:
        UsageError: if the file does not exist.
        DataError: if it cannot be read, is no CSV, lacks a column, or has a line with more cells
            than the header.
    """
    try:
        text = path.read_bytes().decode("utf-8-sig", _ENCODING_ERRORS)
    except FileNotFoundError as error:
        raise UsageError(f"{path}: found no such file, expected {expected}") from error
    except OSError as error:
        raise DataError(
            f"{path}: cannot be read ({error.strerror}); expected {expected}"
        ) from error
    reader = csv.DictReader(io.StringIO(text, newline=""), restval="")
    try:
        found = reader.fieldnames or ()
        missing = [column for column in columns if column not in found]
        if missing:
            names = ", ".join(found)[:200] or "none"
            raise DataError(
                f"{path}: found the columns {names} without {', '.join(missing)}, "
                f"expected {expected}"
            )
        for row in reader:
            place = f"{path}, line {reader.line_num}"
            if None in row:
                raise DataError(f"{place}: found more cells than columns, expected {expected}")
            yield place, row
    except csv.Error as error:
        raise DataError(f"{path}: found no CSV ({error}), expected {expected}") from error


def write_rows(path: Path, header: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Write a CSV file, complete or not at all.

    Args:
        path: file to create or replace; its folder is created if needed.
        header: names of the columns.
        rows: one cell per column each.

    Raises:
        OutputError: if it cannot be written.
    """
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    write_bytes(path, encode_text(text.getvalue()))
