"""The data table: one line per image, checked once by ``index`` and trusted afterwards."""

import os
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Final, Literal, cast, get_args

from mediar_infer.errors import DataError, UsageError
from mediar_infer.training.data.csv_files import read_rows, write_rows

Role = Literal["target", "public", "tuning", "unlabelled"]
"""What an image is for: *target* and *public* are labelled; *tuning* and *unlabelled* are not."""
ROLES: Final[tuple[Role, ...]] = get_args(Role)
LABELLED_ROLES: Final[tuple[Role, ...]] = ("target", "public")
SPLITS: Final = ("train", "val")

TABLE_COLUMNS: Final = (
    "image_id",
    "role",
    "split",
    "modality",
    "source",
    "image",
    "label",
    "height",
    "width",
    "dtype",
    "n_cells",
    "digest",
)


@dataclass(frozen=True, slots=True)
class TrainingImage:
    """One line of the table."""

    image_id: str
    """Unique id in the table."""
    role: Role
    """What the image is for; tuning and unlabelled images have no labels."""
    split: str
    """``train`` or ``val`` (held out); ``train`` for images without labels."""
    modality: str
    """Kind of microscopy, e.g. ``phase_contrast``; empty if unknown."""
    source: str
    """Data set that the image comes from; empty if unknown."""
    image_path: Path
    """The image, absolute."""
    label_path: Path | None
    """Its instance labels, absolute; None for images without labels."""
    height: int
    """Rows of image and labels."""
    width: int
    """Columns of image and labels."""
    dtype: str
    """Data type of the image file as numpy names it, e.g. ``uint16``."""
    n_cells: int
    """Number of different non-zero labels; 0 without labels."""
    digest: str
    """SHA-256 of the image file's bytes, in hexadecimal."""

    def __post_init__(self) -> None:
        """Check what types cannot express."""
        if self.role not in ROLES:
            raise DataError(f"column role: found {self.role!r}, expected one of {', '.join(ROLES)}")
        if self.split not in SPLITS:
            raise DataError(
                f"column split: found {self.split!r}, expected one of {', '.join(SPLITS)}"
            )
        if (self.label_path is not None) != (self.role in LABELLED_ROLES):
            found = "a label file" if self.label_path else "no label file"
            raise DataError(
                f"column label: found {self.image_id} of role {self.role} with {found}, expected "
                f"labels for {' and '.join(LABELLED_ROLES)}, and none for the other roles"
            )
        if self.split == "val" and self.label_path is None:
            raise DataError(
                f"column split: found {self.image_id} held out without labels, expected split train"
            )
        if self.height < 1 or self.width < 1 or self.n_cells < 0:
            raise DataError(
                f"columns height, width, n_cells: found {self.image_id} with {self.height} × "
                f"{self.width} pixels and {self.n_cells} cells, expected at least one pixel and no "
                "negative count"
            )


def read_table(path: Path) -> list[TrainingImage]:
    """Read a data table.

    Args:
        path: CSV file with the columns ``TABLE_COLUMNS``; ``image`` and ``label`` are relative to
            its folder, ``label`` is empty for images without labels. Further columns are ignored.

    Returns:
        The records in the order of the file.

    Raises:
        UsageError: if the file does not exist.
        DataError: if it lacks a column, or a value does not fit its column; the message names file,
            line and column.
    """
    records: list[TrainingImage] = []
    places: dict[str, str] = {}
    for place, row in read_rows(path, TABLE_COLUMNS, "a data table made by 'index'"):
        record = _to_record(row, path.absolute().parent, place)
        if record.image_id in places:
            raise DataError(
                f"{place}, column image_id: found {record.image_id!r}, which is also in "
                f"{places[record.image_id]}, expected every image once"
            )
        places[record.image_id] = place
        records.append(record)
    return records


def write_table(records: Iterable[TrainingImage], path: Path) -> None:
    """Write a data table, complete or not at all.

    Args:
        records: what to write, in this order.
        path: CSV file to create or replace; paths in it are relative to its folder, so folder and
            images can move together.

    Raises:
        OutputError: if it cannot be written.
    """
    folder = path.absolute().parent
    rows = []
    for record in records:
        values = {field.name: getattr(record, field.name) for field in fields(record)}
        values["image"] = _relative(record.image_path, folder)
        values["label"] = _relative(record.label_path, folder) if record.label_path else ""
        rows.append([values[column] for column in TABLE_COLUMNS])
    write_rows(path, TABLE_COLUMNS, rows)


def select_records(
    records: Sequence[TrainingImage], roles: Collection[str], split: str
) -> list[TrainingImage]:
    """Select the records of some roles and one split.

    Args:
        records: the table.
        roles: some of ``ROLES``.
        split: ``train`` or ``val``.

    Returns:
        The matching records in the same order; possibly none.

    Raises:
        UsageError: if a role or the split is unknown.
    """
    unknown = [role for role in roles if role not in ROLES]
    if unknown or split not in SPLITS:
        raise UsageError(
            f"found roles {list(roles)} and split {split!r}, expected roles among "
            f"{', '.join(ROLES)} and a split among {', '.join(SPLITS)}"
        )
    return [record for record in records if record.role in roles and record.split == split]


def _relative(path: Path, folder: Path) -> str:
    return Path(os.path.relpath(path, folder)).as_posix()


def _to_record(values: Mapping[str, str], folder: Path, place: str) -> TrainingImage:
    for column in ("image_id", "image"):
        if not values[column]:
            raise DataError(f"{place}, column {column}: found an empty cell, expected a value")
    height, width, n_cells = (
        _whole(values, column, place) for column in ("height", "width", "n_cells")
    )
    label = values["label"]
    try:
        return TrainingImage(
            image_id=values["image_id"],
            role=cast(Role, values["role"]),  # checked by the record
            split=values["split"],
            modality=values["modality"],
            source=values["source"],
            image_path=_absolute(folder / values["image"]),
            label_path=_absolute(folder / label) if label else None,
            height=height,
            width=width,
            dtype=values["dtype"],
            n_cells=n_cells,
            digest=values["digest"],
        )
    except DataError as error:
        raise DataError(f"{place}, {error}") from error


def _absolute(path: Path) -> Path:
    return Path(os.path.normpath(path))


def _whole(values: Mapping[str, str], column: str, place: str) -> int:
    try:
        return int(values[column])
    except ValueError:
        raise DataError(
            f"{place}, column {column}: found {values[column]!r}, expected a whole number"
        ) from None
