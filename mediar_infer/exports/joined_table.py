"""Tables of cells joined to one, read and written piece by piece."""

import csv
import io
from collections.abc import Generator, Iterator, Sequence
from contextlib import closing, contextmanager
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from mediar_infer.errors import DataError
from mediar_infer.exports.options import PARQUET
from mediar_infer.exports.table import CSV_FORM, IMAGE, check_table
from mediar_infer.output_files import writing_output

if TYPE_CHECKING:
    import pyarrow

_BATCH_ROWS: Final = 65536


def join_tables(paths: Sequence[Path], joined: Path) -> None:
    """Write the rows of several tables as one, in the order of the tables.

    It has the columns of all of them; those that one of them lacks stay empty in its rows.

    Args:
        paths: the tables, all CSV or all Parquet; one or more.
        joined: the table that is written, of the same format; it replaces an earlier one.

    Raises:
        DataError: if one of them cannot be read, or they contradict each other.
        ExportError: if pyarrow is asked for and not installed.
        OutputError: if the table cannot be written.
    """
    check_table(joined)
    if joined.suffix.lower() == PARQUET:
        _join_parquet(paths, joined)
    else:
        _join_csv(paths, joined)


def _join_csv(paths: Sequence[Path], joined: Path) -> None:
    columns = list(dict.fromkeys(chain.from_iterable(_read_header(path) for path in paths)))
    with writing_output(joined) as file:
        text = io.TextIOWrapper(file, *CSV_FORM, newline="")
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(columns)
        for path in paths:
            with closing(_read_rows(path)) as rows:
                names = next(rows)
                places = [names.index(name) if name in names else None for name in columns]
                for row in rows:
                    if len(row) != len(names):
                        raise _damaged(path, f"a row of {len(row)} fields, not {len(names)}")
                    writer.writerow(["" if k is None else row[k] for k in places])
        text.detach()  # flushed; the file goes on


def _read_header(path: Path) -> list[str]:
    with closing(_read_rows(path)) as rows:
        header = next(rows, [])
    if header[:1] != [IMAGE]:
        raise _damaged(path, f"no column {IMAGE} at its start")
    return header


# Generators: an error of the joined table is not taken for one of the table that is being read.


def _read_rows(path: Path) -> Generator[list[str], None, None]:
    encoding, errors = CSV_FORM
    try:
        with path.open(encoding=encoding, errors=errors, newline="") as file:
            yield from csv.reader(file)
    except csv.Error as error:
        raise _damaged(path, str(error)) from error
    except OSError as error:
        raise _unreadable(path, error) from error


def _read_batches(path: Path) -> "Iterator[pyarrow.RecordBatch]":
    with _reading_parquet(path) as table:
        yield from table.iter_batches(_BATCH_ROWS)


def _join_parquet(paths: Sequence[Path], joined: Path) -> None:
    import pyarrow
    from pyarrow import parquet

    schemas = []
    for path in paths:
        with _reading_parquet(path) as table:
            schemas.append(table.schema_arrow.remove_metadata())
    try:
        schema = pyarrow.unify_schemas(schemas)
    except pyarrow.ArrowException as error:
        raise DataError(
            f"{joined}: found tables of parts that contradict each other ({error}), expected"
            " columns of the same types; run the parts again with the same options"
        ) from error
    with writing_output(joined) as file, parquet.ParquetWriter(file, schema) as writer:
        for path in paths:
            for batch in _read_batches(path):
                writer.write_batch(_with_columns(batch, schema))


@contextmanager
def _reading_parquet(path: Path) -> Iterator[Any]:
    import pyarrow
    from pyarrow import parquet

    try:
        with parquet.ParquetFile(path) as table:
            yield table
    except pyarrow.ArrowException as error:
        raise _damaged(path, str(error).partition("\n")[0]) from error
    except OSError as error:
        raise _unreadable(path, error) from error


def _with_columns(batch: "pyarrow.RecordBatch", schema: "pyarrow.Schema") -> "pyarrow.RecordBatch":
    import pyarrow

    arrays = [
        batch.column(field.name)
        if field.name in batch.schema.names
        else pyarrow.nulls(batch.num_rows, field.type)
        for field in schema
    ]
    return pyarrow.RecordBatch.from_arrays(arrays, schema=schema)


def _damaged(path: Path, found: str) -> DataError:
    return DataError(f"{path}: found no table of cells ({found}), expected one; write it again")


def _unreadable(path: Path, error: OSError) -> DataError:
    reason = error.strerror or str(error).partition("\n")[0]
    return DataError(
        f"{path}: found a table that cannot be read ({reason}), expected one of cells; check its"
        " permissions, or write it again"
    )
