"""The files of the paper's Tables 5 to 8: rows, and what each changes about a recipe.

A table's file applies changes to any recipe: ``[changes]`` for all rows, ``[recipes.NAME]`` where
the recipe has that name, ``[[rows]]`` with changes of their own.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from mediar_infer.errors import UsageError
from mediar_infer.training.comparisons.unlabelled import APPROACHES
from mediar_infer.training.data.table import ROLES
from mediar_infer.training.stages.recipe_files import RECIPES_DIR, parse_fields, read_values

TABLES_DIR: Final = RECIPES_DIR / "tables"
"""The files of the paper's tables."""
SHARED_NAME: Final = "shared"
"""Folder of the stages that rows share, beside those of the rows."""


@dataclass(frozen=True, slots=True)
class Row:
    """One line of a table."""

    key: str
    """Name of its folder."""
    label: str
    """Name in the paper."""
    paper_f1: float
    """F1 in the paper."""
    stages: tuple[str, ...]
    """Stages that are trained for it; the last one's result is scored."""
    changes: Mapping[str, Any]
    """Changes to the recipe."""
    paper_loss: float = 0.0
    """Training loss in the paper; 0 where it gives none."""
    shared: tuple[str, ...] = ()
    """Stages that it needs beside those of the table."""
    decoder_divisor: int = 1
    """The recipe's decoder and PAB widths are divided by this."""
    unlabelled: str = ""
    """Additional loss for unlabelled images, one of ``unlabelled.APPROACHES``; empty for none."""
    pseudo_labels_from: str = ""
    """Earlier row whose result labels the unlabelled images; empty for none."""

    def __post_init__(self) -> None:
        if not self.stages or SHARED_NAME in (self.key, ""):
            raise UsageError(
                f"found row {self.key!r} with stages {list(self.stages)}, expected a key and at"
                " least one stage"
            )
        if self.decoder_divisor < 1:
            raise UsageError(f"decoder_divisor: found {self.decoder_divisor}, expected 1 or more")
        if self.unlabelled and self.unlabelled not in APPROACHES:
            raise UsageError(
                f"unlabelled: found {self.unlabelled!r}, expected one of {', '.join(APPROACHES)}"
            )


@dataclass(frozen=True, slots=True)
class Table:
    """A table of the paper."""

    number: int
    """Number in the paper."""
    title: str
    """Short title."""
    roles: tuple[str, ...]
    """Held-out images of these roles are scored."""
    changes: Mapping[str, Any]
    """Changes to the recipe for all rows."""
    recipes: Mapping[str, Mapping[str, Any]]
    """Name of a recipe → changes to it."""
    rows: tuple[Row, ...]
    """In order."""
    shared: tuple[str, ...] = ()
    """Stages that all rows need."""
    encoder_from: str = ""
    """Stage whose encoder takes the place of ImageNet's where the recipe names no weights."""

    def __post_init__(self) -> None:
        unknown = [role for role in self.roles if role not in ROLES]
        if unknown or not self.roles:
            raise UsageError(
                f"roles: found {list(self.roles)}, expected some of {', '.join(ROLES)}"
            )
        keys: list[str] = []
        for row in self.rows:
            teacher = row.pseudo_labels_from
            if row.key in keys or (teacher and teacher not in keys):
                raise UsageError(
                    f"rows: found {row.key!r} with pseudo_labels_from {teacher!r} after"
                    f" {', '.join(keys) or 'no row'}, expected a new key and an earlier row"
                )
            keys.append(row.key)

    def choose(self, keys: Iterable[str]) -> list[Row]:
        """Rows with these keys in the table's order, and those they need; all rows without keys.

        Raises:
            UsageError: if there is no such row.
        """
        wanted = set(keys)
        unknown = wanted - {row.key for row in self.rows}
        if unknown:
            raise UsageError(
                f"found rows {', '.join(sorted(unknown))}, expected some of"
                f" {', '.join(row.key for row in self.rows)}"
            )
        wanted |= {row.pseudo_labels_from for row in self.rows if row.key in wanted}
        return [row for row in self.rows if not keys or row.key in wanted]


def find_table(name: str) -> Path:
    """Find a table: ``table5`` or ``5`` … ``8``, or a TOML file.

    Raises:
        UsageError: if it does not exist.
    """
    path = Path(name)
    packaged = [TABLES_DIR / f"{name}.toml", TABLES_DIR / f"table{name}.toml"]
    for candidate in (path, *packaged):
        if candidate.is_file():
            return candidate
    known = ", ".join(sorted(path.stem for path in TABLES_DIR.glob("*.toml")))
    raise UsageError(f"{name}: found no such table, expected a TOML file or one of {known}")


def read_ablation(path: Path) -> Table:
    """Read the file of a table.

    Raises:
        UsageError: if a key is unknown, or a value is of the wrong type or out of range.
    """
    where, values = str(path), read_values(path)
    changes, recipes = values.pop("changes", {}), values.pop("recipes", {})
    rows = []
    for number, row in enumerate(values.pop("rows", []), start=1):
        plain = {key: value for key, value in row.items() if key != "changes"}
        own = row.get("changes", {})
        rows.append(parse_fields(Row, plain, where, f"rows, number {number}", changes=own))
    given = {"changes": changes, "recipes": recipes, "rows": tuple(rows)}
    return parse_fields(Table, values, where, "table", **given)
