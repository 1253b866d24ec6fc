"""Recipe files: TOML, read strictly.

``[defaults]`` and ``[augmentation]`` hold what all stages share; ``[stages.NAME]`` and
``[stages.NAME.augmentation]`` hold what one stage changes. An unknown key, a wrong type or a value
out of range is an error that names file, table and key. ``paper.toml``, ``small.toml`` and others
come with the package, in ``recipes/``.
"""

import math
import tomllib
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any, Final, Literal, TypeVar, get_args, get_origin, get_type_hints

from mediar_infer.errors import UsageError
from mediar_infer.training.augmentation.settings import Augmentation
from mediar_infer.training.stages.recipe import (
    Blend,
    DataConfig,
    DiscoveryConfig,
    ModelConfig,
    Recipe,
    RelabellingConfig,
)
from mediar_infer.training.stages.stage_config import StageConfig

RECIPES_DIR: Final = Path(__file__).resolve().parents[1] / "recipes"
"""Recipes that come with the package."""

_TABLES: Final = (
    "model",
    "data",
    "augmentation",
    "defaults",
    "stages",
    "blends",
    "discovery",
    "relabelling",
)
_NO_KEYS: Final = ("name", "augmentation")
"""Fields of a stage that its table does not set as keys."""
_TYPE_NAMES: Final = {
    str: "a text",
    int: "a whole number",
    float: "a number",
    bool: "true or false",
}
_Config = TypeVar("_Config")


def find_recipe(name: str) -> Path:
    """Find a recipe: a TOML file, or the name of one that comes with the package.

    Raises:
        UsageError: if it does not exist.
    """
    path = Path(name)
    if path.is_file():
        return path
    packaged = RECIPES_DIR / f"{name}.toml"
    if packaged.is_file():
        return packaged
    known = ", ".join(list_recipes())
    raise UsageError(f"{name}: found no such recipe, expected a TOML file or one of {known}")


def list_recipes() -> list[str]:
    """Names of the recipes that come with the package."""
    return sorted(path.stem for path in RECIPES_DIR.glob("*.toml"))


def read_values(path: Path) -> dict[str, Any]:
    """Read a TOML file as it is.

    Raises:
        UsageError: if it cannot be read or is not TOML.
    """
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"{path}: cannot be read ({error.strerror}); expected a recipe") from error
    except (ValueError, RecursionError) as error:  # not UTF-8, not TOML, or endlessly nested
        raise UsageError(f"{path}: found no TOML ({error}), expected a recipe") from error


def merge_values(base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Merge values into others, table by table; neither is modified."""
    merged = dict(base)
    for key, value in changes.items():
        below = merged.get(key)
        if isinstance(value, Mapping) and isinstance(below, Mapping):
            merged[key] = merge_values(below, value)
        else:
            merged[key] = value
    return merged


def read_recipe(path: Path) -> Recipe:
    """Read and check a recipe.

    Raises:
        UsageError: if a key is unknown, or a value is of the wrong type or out of range.
    """
    return parse_recipe(read_values(path), str(path))


def parse_recipe(values: Mapping[str, Any], where: str) -> Recipe:
    """Check the values of a recipe.

    Args:
        values: as TOML gives them. Not modified.
        where: file name for messages.

    Raises:
        UsageError: if a key is unknown, or a value is of the wrong type or out of range.
    """
    _check_keys(values, ("name", "seed", *_TABLES), where, "the recipe")
    for key in ("name", "seed"):
        if key not in values:
            raise UsageError(f"{where}: found no {key}, expected one above the tables; add it")
    tables = {name: _table(values, name, where) for name in _TABLES}
    name = _convert(values["name"], str, f"{where}: name")
    seed = _convert(values["seed"], int, f"{where}: seed")
    stages = _parse_stages(tables, where)
    blends = tuple(
        parse_fields(
            Blend, _table(tables["blends"], blend, where), where, f"blends.{blend}", name=blend
        )
        for blend in tables["blends"]
    )
    try:
        return Recipe(
            name=name,
            seed=seed,
            model=parse_fields(ModelConfig, tables["model"], where, "model"),
            data=parse_fields(DataConfig, tables["data"], where, "data"),
            stages=stages,
            blends=blends,
            discovery=parse_fields(DiscoveryConfig, tables["discovery"], where, "discovery"),
            relabelling=parse_fields(
                RelabellingConfig, tables["relabelling"], where, "relabelling"
            ),
        )
    except UsageError as error:
        if str(error).startswith(where):
            raise
        raise UsageError(f"{where}: {error}") from error


def _parse_stages(tables: Mapping[str, Mapping[str, Any]], where: str) -> tuple[StageConfig, ...]:
    """Make the stages from their tables and those that all of them share."""
    keys = tuple(each.name for each in fields(StageConfig) if each.name not in _NO_KEYS)
    _check_keys(tables["defaults"], keys, where, "[defaults]")
    return tuple(
        _parse_stage(
            name,
            {**tables["defaults"], **_table(tables["stages"], name, where)},
            tables["augmentation"],
            where,
        )
        for name in tables["stages"]
    )


def _parse_stage(
    name: str, values: Mapping[str, Any], defaults: Mapping[str, Any], where: str
) -> StageConfig:
    changes = _table(values, "augmentation", where)
    augmentation = parse_fields(
        Augmentation, {**defaults, **changes}, where, f"stages.{name}.augmentation"
    )
    rest = {key: value for key, value in values.items() if key != "augmentation"}
    return parse_fields(
        StageConfig, rest, where, f"stages.{name}", name=name, augmentation=augmentation
    )


def _table(values: Mapping[str, Any], key: str, where: str) -> Mapping[str, Any]:
    table = values.get(key, {})
    if not isinstance(table, Mapping):
        raise UsageError(f"{where}: {key}: found {table!r}, expected a table")
    return table


def _check_keys(
    values: Mapping[str, Any], allowed: tuple[str, ...], where: str, table: str
) -> None:
    for key in values:
        if key not in allowed:
            raise UsageError(
                f"{where}: found unknown key {key!r} in {table}, expected some of"
                f" {', '.join(allowed)}"
            )


def parse_fields(
    kind: type[_Config],
    values: Mapping[str, Any],
    where: str,
    table: str,
    **given: Any,  # noqa: ANN401 (fields that are no keys)
) -> _Config:
    """Make a dataclass from a TOML table; ``given`` fields are set by the caller."""
    hints = get_type_hints(kind)
    names = tuple(each.name for each in fields(kind) if each.name not in given)  # type: ignore[arg-type]
    _check_keys(values, names, where, f"[{table}]")
    converted = {
        key: _convert(value, hints[key], f"{where}: [{table}] {key}")
        for key, value in values.items()
    }
    try:
        return kind(**converted, **given)
    except UsageError as error:
        raise UsageError(f"{where}: [{table}] {error}") from error
    except TypeError as error:
        raise UsageError(f"{where}: [{table}] lacks a key ({error}); add it") from error


def _convert(value: Any, hint: Any, place: str) -> Any:  # noqa: ANN401 (any type of a recipe)
    """Check a TOML value against a field's type; lists become tuples, whole numbers floats."""
    if get_origin(hint) is Literal:
        if value not in get_args(hint):
            allowed = ", ".join(map(str, get_args(hint)))
            raise UsageError(f"{place}: found {value!r}, expected one of {allowed}")
        return value
    if get_origin(hint) is tuple:
        return _convert_list(value, get_args(hint), place)
    if hint is float and type(value) is int:
        return float(value)
    if type(value) is not hint or (hint is float and not math.isfinite(value)):
        raise UsageError(f"{place}: found {value!r}, expected {_TYPE_NAMES[hint]}")
    return value


def _convert_list(value: Any, items: tuple[Any, ...], place: str) -> tuple[Any, ...]:  # noqa: ANN401
    if not isinstance(value, list):
        raise UsageError(f"{place}: found {value!r}, expected a list")
    kinds = [items[0]] * len(value) if items[-1] is Ellipsis else list(items)
    if len(kinds) != len(value):
        raise UsageError(f"{place}: found {value!r}, expected {len(kinds)} values")
    return tuple(_convert(item, kind, place) for item, kind in zip(value, kinds, strict=True))
