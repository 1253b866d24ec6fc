"""What the README promises: commands, options, tables and the Python example."""

import dataclasses
import re
import shlex

import pytest
from folder_helpers import ROOT

from mediar_infer import cli
from mediar_infer.config import PLANS
from mediar_infer.engine.plans import LADDER
from mediar_infer.folder.ledger import ImageRecord
from mediar_infer.grand_challenge.interfaces import read_interfaces
from mediar_infer.images.open import _FORMATS
from mediar_infer.training import __main__ as training
from mediar_infer.training.stages.recipe import RECIPES_DIR

README = (ROOT / "README.md").read_text(encoding="utf-8")


def _blocks(language):
    return re.findall(rf"^```{language}\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)


def _table(heading):
    """First cells of the table below a heading."""
    section = re.split(r"^#+ ", README.partition(f"# {heading}\n")[2], maxsplit=1, flags=re.M)[0]
    rows = [line for line in section.splitlines() if line.startswith("| ")]
    return [row.split(" | ") for row in rows[2:]]


def _names(cells):
    return [name for cell in cells for name in re.findall(r"`([^`]+)`", cell)]


TRAINING = "python -m mediar_infer.training "
COMMANDS = [
    line.partition("#")[0].strip() for block in _blocks("sh") for line in block.splitlines()
]


@pytest.mark.parametrize(
    "command", [c for c in COMMANDS if re.match(r"python (-m mediar_infer |predict\.py)", c)]
)
def test_command_line_is_accepted(command):
    arguments = shlex.split(command)[2:]
    arguments = ["predict", *arguments] if "predict.py" in command else arguments[1:]
    assert cli.build_parser(arguments[0]).parse_args(arguments).command == arguments[0]


@pytest.mark.parametrize("command", [c for c in COMMANDS if TRAINING in c])
def test_training_command_line_is_accepted(command):
    arguments = shlex.split(command.partition(TRAINING)[2])
    assert training.build_parser(arguments[0]).parse_args(arguments).command == arguments[0]


def test_table_lists_every_training_command():
    listed = _names(row[0] for row in _table("The protocol of the paper"))
    assert sorted(listed) == sorted(training.COMMANDS)


def test_table_lists_every_packaged_recipe():
    listed = _names(row[0] for row in _table("Recipes"))
    assert sorted(listed) == sorted(path.stem for path in RECIPES_DIR.glob("*.toml"))


def test_every_other_command_is_known():
    others = [c for c in COMMANDS if not re.match(r"python (-m mediar_infer|predict\.py)", c)]
    targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    made = [shlex.split(command)[1] for command in others if command.startswith("make")]
    images = ["image", "image-check", "submission", "gc-image", "gc-test", "gc-save"]
    assert made == ["demo", "test", *images]
    assert set(made) <= set(targets)
    rest = [command for command in others if not command.startswith(("make", "docker"))]
    assert rest == [
        "python3 -m venv .venv",
        ". .venv/bin/activate",
        "python -m pip install -r requirements.txt",
        "python -m pip install --no-deps -e .",
        "python -m pytest",
    ]


def _options(command):
    """All option strings of a command."""
    parser = cli.build_parser(command)._subparsers._group_actions[0].choices[command]
    actions = [action for action in parser._actions if action.dest != "help"]
    return {name for action in actions for name in action.option_strings}


def _listed_options(heading):
    return {name.split()[0] for name in _names(row[0] for row in _table(heading))}


def test_table_lists_every_option_of_predict():
    assert _listed_options("Options of `predict`") == _options("predict")


def test_table_lists_the_options_that_only_grand_challenge_has():
    listed, options = _listed_options("grand-challenge.org"), _options("grand-challenge")
    assert listed <= options
    shared = {"-i", "--input", "-o", "--output"}
    assert listed - shared == options - _options("predict")


def test_table_of_sockets_is_read(tmp_path):
    (example,) = _blocks("toml")
    (tmp_path / "sockets.toml").write_text(example)
    (interface,) = read_interfaces(tmp_path / "sockets.toml")
    assert interface.key == ("my-cell-image", "my-pixel-size")


def test_table_lists_the_fields_of_the_ledger_in_order():
    record = ImageRecord(file="a", status="done", started_at="")
    listed = _names(row[0] for row in _table("Ledger fields"))
    assert sorted(listed) == sorted(record.to_dict())
    stored = [field.name for field in dataclasses.fields(ImageRecord)]
    assert [name for name in listed if name in stored] == stored


def test_table_lists_every_extension():
    listed = _names(row[1] for row in _table("Image formats"))
    assert sorted(listed) == sorted(_FORMATS)


def test_table_tells_the_plans_as_they_are():
    rows = [[cell.strip("| `") for cell in row] for row in _table("Plans")]
    told = {row[0]: (int(row[1]), int(row[2]), float(row[3])) for row in rows}
    assert told == {
        name: (plan.max_members, len(plan.flips), plan.overlap) for name, plan in PLANS.items()
    }


def test_table_tells_the_rungs_of_the_ladder_as_they_are():
    rows = [[cell.strip("| `") for cell in row] for row in _table("Time budget")]
    told = [(row[0], int(row[1]), int(row[2]), float(row[3])) for row in rows]
    assert told == [(each.name, each.max_members, each.n_flips, each.overlap) for each in LADDER]


def test_table_lists_every_exit_code():
    codes = ", ".join(row[0].strip("| ") for row in _table("Exit codes"))
    assert codes == "0, 1, 2, 130, 143"


def test_every_file_that_is_named_exists():
    named = set(re.findall(r"`((?:weights|benchmarks)/[\w./]*|LICENSE)`", README))
    assert {"weights/README.md", "benchmarks/results/"} <= named
    assert [name for name in named if not (ROOT / name).exists()] == []


def test_python_example_runs(weights_dir, monkeypatch, capsys):
    (example,) = _blocks("python")
    monkeypatch.setenv("MEDIAR_WEIGHTS", str(weights_dir))
    exec(compile(example, "README.md", "exec"), {})
    assert re.match(r"\d+ \{'", capsys.readouterr().out)
