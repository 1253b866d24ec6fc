"""Cells of many images as one table: gathered image by image, written at once."""

import csv
import io
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt

from mediar_infer.errors import ExportError
from mediar_infer.exports.measures import COLUMNS, Columns
from mediar_infer.exports.options import PARQUET
from mediar_infer.exports.text_names import to_text
from mediar_infer.output_files import Spool, writing_output

if TYPE_CHECKING:
    import pyarrow

IMAGE: Final = "image"
"""First column of every table."""
CSV_FORM: Final = ("utf-8", "surrogateescape")
"""Encoding of a table as CSV, and what becomes of names of files that are no text."""
_CHUNK_ROWS: Final = 4096


class GatheredTable:
    """Gathers the rows of images on disk, in whatever order they end, and writes the table.

    Which columns a table has is known when its last image is done: channels have names. Until then
    its rows lie in a nameless file beside it, so that memory does not grow with the number of
    images, and nothing is left of a killed process.

    Use as a context manager or call ``close``.

    Args:
        path: the table; ``.parquet`` needs pyarrow, the rest is CSV.
        columns: those that the table has whatever its images give; theirs follow.

    Raises:
        ExportError: if pyarrow is asked for and not installed.
    """

    def __init__(self, path: Path, columns: Sequence[str] = COLUMNS) -> None:
        check_table(path)
        self._columns = columns
        self._path = path
        self._spool = Spool(path)
        self._places: dict[str, dict[str, int]] = {}
        """Image → column → its place in the spool."""

    def __enter__(self) -> "GatheredTable":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Drop what was gathered."""
        self._spool.close()

    def add(self, image: str, columns: Columns) -> None:
        """Gather the rows of an image; they replace those that it has already.

        Raises:
            OutputError: if the disk is full.
        """
        self._places[image] = {
            name: self._spool.put(_to_bytes(values)) for name, values in columns.items()
        }

    def write(self, images: Iterable[str]) -> None:
        """Write the table.

        Args:
            images: the images in the order of their rows; those without rows are skipped.

        Raises:
            OutputError: if it cannot be written; an earlier table of that name is then kept.
        """
        listed = [image for image in images if image in self._places]
        names = dict.fromkeys(self._columns)
        for image in listed:
            names |= dict.fromkeys(self._places[image])
        with writing_table(self._path, list(names)) as add:
            for image in listed:
                places = self._places[image]
                add(image, {name: _from_bytes(self._spool.get(k)) for name, k in places.items()})


def _to_bytes(values: npt.NDArray[Any]) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, values, allow_pickle=False)
    return buffer.getvalue()


def _from_bytes(data: bytes) -> npt.NDArray[Any]:
    values: npt.NDArray[Any] = np.load(io.BytesIO(data), allow_pickle=False)
    return values


def check_table(path: Path) -> None:
    """Refuse a table whose package is missing, before any work is done for it.

    Raises:
        ExportError: if pyarrow is asked for and not installed.
    """
    if path.suffix.lower() != PARQUET:
        return
    try:
        import pyarrow  # noqa: F401
    except ModuleNotFoundError as error:
        raise ExportError(
            f"{path}: found no pyarrow, expected it for a Parquet table; install"
            " 'mediar-infer[parquet]' or name the table .csv"
        ) from error


@contextmanager
def writing_table(path: Path, columns: Sequence[str]) -> Iterator[Callable[[str, Columns], None]]:
    """Open a table that gets the rows of one image after the other.

    Args:
        path: the file; complete after the ``with`` block, absent after an error.
        columns: names after that of the image, in order; also the header of a table without rows.

    Yields:
        A function that writes the rows of an image; columns that the image lacks stay empty.

    Raises:
        OutputError: if the file cannot be written.
    """
    opened = _writing_parquet if path.suffix.lower() == PARQUET else _writing_csv
    with opened(path, columns) as add:
        yield add


@contextmanager
def _writing_csv(path: Path, columns: Sequence[str]) -> Iterator[Callable[[str, Columns], None]]:
    with writing_output(path) as file:
        text = io.TextIOWrapper(file, *CSV_FORM, newline="")
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow([IMAGE, *columns])

        def add(image: str, values: Columns) -> None:
            n_rows = len(values["label"])
            for first in range(0, n_rows, _CHUNK_ROWS):
                n_chunk = min(_CHUNK_ROWS, n_rows - first)
                texts = [
                    _to_texts(values[name][first : first + n_chunk])
                    if name in values
                    else [""] * n_chunk
                    for name in columns
                ]
                writer.writerows(zip([image] * n_chunk, *texts, strict=True))

        yield add
        text.detach()  # flushed; the file goes on


def _to_texts(values: npt.NDArray[Any]) -> list[Any]:
    listed: list[Any] = values.tolist()
    if values.dtype.kind != "f":
        return listed
    return ["" if value != value else repr(value) for value in listed]


@contextmanager
def _writing_parquet(
    path: Path, columns: Sequence[str]
) -> Iterator[Callable[[str, Columns], None]]:
    import pyarrow
    from pyarrow import parquet

    schema = pyarrow.schema(
        [(IMAGE, pyarrow.string()), *((name, _parquet_type(name)) for name in columns)]
    )
    with writing_output(path) as file, parquet.ParquetWriter(file, schema) as writer:

        def add(image: str, values: Columns) -> None:
            n_rows = len(values["label"])
            arrays = [
                pyarrow.array(values[name], field.type, from_pandas=True)  # NaN is no value
                if (name := field.name) in values
                else pyarrow.nulls(n_rows, field.type)
                for field in list(schema)[1:]
            ]
            shown = to_text(image)
            images = pyarrow.repeat(pyarrow.scalar(shown), n_rows)
            writer.write_table(pyarrow.Table.from_arrays([images, *arrays], schema=schema))

        yield add


def _parquet_type(name: str) -> "pyarrow.DataType":
    import pyarrow

    if name == "touches_edge":
        return pyarrow.bool_()
    is_whole = name in ("label", "area_px") or name.startswith("bbox_")
    return pyarrow.int64() if is_whole else pyarrow.float64()
