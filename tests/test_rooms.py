"""The house rules that a linter does not know: rooms, sizes, and one name for one idea."""

import ast
import tomllib
from collections import defaultdict
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "mediar_infer"
MAX_BASE_FILES = 15
MAX_TRAINING_BASE_FILES = 8
MAX_LINES = 400
MAX_LAYERS = 14
PROTOCOL_NAMES = {
    "add_arguments", "run",  # of every command
    "build_parser", "main",  # of both command lines
    "find_images",  # of every converter
}  # fmt: skip
"""One idea that several modules implement."""
SCRIPTS = {"container"}
"""Folders of files that are copied into container images and never imported."""

# Debts. They may only shrink: an entry that is no longer needed fails its test.
LONG_MODULES: set[str] = set()
REPEATED_NAMES: set[str] = set()


def modules():
    return sorted(PACKAGE.rglob("*.py"))


def module_name(path):
    return ".".join(path.relative_to(ROOT).with_suffix("").parts)


def public_names():
    """Name → modules that define a public class or function of that name."""
    places = defaultdict(list)
    for path in modules():
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.ClassDef | ast.FunctionDef) and not node.name.startswith("_"):
                places[node.name].append(module_name(path))
    return places


def test_base_has_few_files():
    files = [path.name for path in PACKAGE.glob("*.py")]
    assert len(files) <= MAX_BASE_FILES, files


def test_base_of_training_has_few_files():
    files = [path.name for path in (PACKAGE / "training").glob("*.py")]
    assert len(files) <= MAX_TRAINING_BASE_FILES, files


def test_no_module_is_long():
    lengths = {module_name(path): len(path.read_text().splitlines()) for path in modules()}
    assert {name for name, n in lengths.items() if n > MAX_LINES} == LONG_MODULES


def test_no_public_name_stands_for_two_things():
    repeated = {
        name: places
        for name, places in public_names().items()
        if len(places) > 1 and name not in PROTOCOL_NAMES
    }
    assert repeated.keys() == REPEATED_NAMES, repeated


def test_list_of_layers_is_short():
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    for contract in settings["tool"]["importlinter"]["contracts"]:
        assert len(contract.get("layers", [])) <= MAX_LAYERS, contract["id"]


@pytest.mark.parametrize(
    "room",
    sorted({path.parent for path in modules() if path.parent.name not in SCRIPTS}),
    ids=lambda path: path.name,
)
def test_every_room_says_what_it_holds(room):
    docstring = ast.get_docstring(ast.parse((room / "__init__.py").read_text(encoding="utf-8")))
    assert docstring
    assert docstring.partition("\n")[0].endswith(".")
