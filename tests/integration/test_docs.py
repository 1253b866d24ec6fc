"""What README and the pages promise: commands, options, tables, links and the Python example."""

import ast
import dataclasses
import importlib.util
import re
import shlex
import subprocess
import sys
import tomllib

import pytest
from folder_helpers import ROOT

import mediar_infer
from mediar_infer import cli, errors
from mediar_infer.config import PLANS
from mediar_infer.engine.plans import LADDER
from mediar_infer.folder.ledger import LedgerEntry
from mediar_infer.grand_challenge.interfaces import read_interfaces
from mediar_infer.images.formats import EXTENSIONS, UNREAD_FORMATS
from mediar_infer.training import __main__ as training
from mediar_infer.training.stages.recipe_files import RECIPES_DIR

PAGES = {
    path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8")
    for path in sorted(
        [
            *ROOT.glob("*.md"),
            *(ROOT / "docs").rglob("*.md"),
            *(ROOT / "weights").rglob("README.md"),
            ROOT / "benchmarks" / "NOTES.md",
        ]
    )
}
MAX_README_LINES = 180
FORMATS = "docs/formats.md"


def _blocks(text, language):
    """Fenced blocks, those inside lists too."""
    found = re.findall(rf"^ *```{language}\n(.*?)^ *```$", text, re.MULTILINE | re.DOTALL)
    return [re.sub(r"\\\n\s*", "", block) for block in found]


def _table(page, heading):
    """Cells of the rows of the table below a heading."""
    _, found, rest = PAGES[page].partition(f"# {heading}\n")
    assert found, f"{page} has no heading {heading!r}"
    section = re.split(r"^#+ ", rest, maxsplit=1, flags=re.MULTILINE)[0]
    rows = [line.strip("| ").split(" | ") for line in section.splitlines() if line.startswith("| ")]
    return rows[2:]


def _names(cells):
    return [name for cell in cells for name in re.findall(r"`([^`]+)`", cell)]


COMMANDS = sorted(
    {
        line.partition(" #")[0].strip()
        for text in PAGES.values()
        for block in _blocks(text, "sh")
        for line in block.splitlines()
    }
)
INFERENCE, TRAINING = "mediar-infer ", "python -m mediar_infer.training "


def _starting_with(*beginnings):
    return [command for command in COMMANDS if command.startswith(beginnings)]


@pytest.mark.parametrize("command", _starting_with(INFERENCE))
def test_command_line_is_accepted(command):
    arguments = shlex.split(command.removeprefix(INFERENCE))
    assert cli.build_parser(arguments[0]).parse_args(arguments).command == arguments[0]


@pytest.mark.parametrize("command", _starting_with(TRAINING))
def test_training_command_line_is_accepted(command):
    arguments = shlex.split(command.removeprefix(TRAINING))
    assert training.build_parser(arguments[0]).parse_args(arguments).command == arguments[0]


@pytest.mark.parametrize("command", _starting_with("make "))
def test_target_of_make_exists(command):
    done = subprocess.run(
        [*shlex.split(command), "--dry-run", "--no-print-directory"],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


def test_help_lists_every_target_of_make():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8").replace("\\\n", " ")
    (phony,) = re.findall(r"^\.PHONY: (.*)$", makefile, re.MULTILINE)
    assert re.findall(r"^([a-z-]+):.* ## .", makefile, re.MULTILINE) == phony.split()


def test_every_other_command_is_known():
    others = set(COMMANDS) - set(_starting_with(INFERENCE, TRAINING, "make ", "docker ", "podman "))
    assert others == {
        ". .venv/bin/activate",
        'apptainer exec --nv --cleanenv --pwd "$PWD" --bind "$PWD" mediar.sif mediar-infer predict'
        " -i images -o labels",
        "apptainer build mediar.sif docker-archive://team.tar.gz",
        "sbatch --array=1-20 slurm.sbatch /scratch/plates /scratch/labels --overlays",
        "snakemake --snakefile docs/recipes/Snakefile --cores 8 --config images=images"
        " labels=labels parts=4",
        "apptainer run --nv --containall --bind images:/workspace/inputs:ro"
        " --bind labels:/workspace/outputs mediar.sif",
        "export MEDIAR_WEIGHTS=first",
        "git clone ADDRESS mediar && cd mediar",
        "napari",
        "pre-commit install",
        "python -m pip install --no-deps -e .",
        "python -m pip install '.[napari]' 'napari[pyqt6]'",
        "python -m pip install -e '.[training]'",
        "python -m pip install -r requirements.txt",
        "python -m pip install pre-commit",
        "python -m pytest",
        "python3 -m venv .venv",
    }


def test_readme_is_short_and_names_the_two_first_commands():
    readme = PAGES["README.md"]
    assert len(readme.splitlines()) <= MAX_README_LINES
    commands = [line.partition("#")[0].strip() for line in _blocks(readme, "sh")[0].splitlines()]
    assert commands == ["make demo", "make test"]


def test_commands_table_lists_every_command():
    listed = _names(row[0] for row in _table("docs/options.md", "Commands"))
    assert sorted(listed) == sorted(cli._COMMANDS)


def test_table_lists_every_training_command():
    listed = _names(row[0] for row in _table("docs/training.md", "The protocol of the paper"))
    assert sorted(listed) == sorted(training.COMMANDS)


def test_table_lists_every_packaged_recipe():
    listed = _names(row[0] for row in _table("docs/training.md", "Recipes"))
    assert sorted(listed) == sorted(path.stem for path in RECIPES_DIR.glob("*.toml"))


def _actions(command):
    """All options of a command but those of every command, ``--help`` and ``--version``."""
    parser = cli.build_parser(command)._subparsers._group_actions[0].choices[command]
    options = [action for action in parser._actions if action.option_strings]
    return [action for action in options if action.dest not in ("help", "version")]


def _options(command):
    """All option strings of a command."""
    return {name for action in _actions(command) for name in action.option_strings}


def _listed_options(page, heading):
    return {name.split()[0] for name in _names(row[0] for row in _table(page, heading))}


def test_table_lists_every_option_of_predict():
    assert _listed_options("docs/options.md", "Options of `predict`") == _options("predict")


def test_table_of_options_has_the_values_and_defaults_of_the_parser():
    rows = _table("docs/options.md", "Options of `predict`")
    listed = {_names(row[:1])[-1].split()[0]: row for row in rows}
    for action in _actions("predict"):
        row = listed[action.option_strings[-1]]
        if action.metavar:
            assert re.search(rf" {action.metavar}(`|…)", row[0])
        for choice in action.choices or ():
            assert str(choice) in row[2] or action.dest in ("plan", "blocks")  # tables of their own
        if isinstance(action.default, str | float | int) and not isinstance(action.default, bool):
            assert row[1].strip("`") == str(action.default)


def test_table_lists_the_options_that_only_grand_challenge_has():
    listed = _listed_options("docs/grand-challenge.md", "Options of `grand-challenge`")
    options = _options("grand-challenge")
    assert listed <= options
    shared = {"-i", "--input", "-o", "--output"}
    assert listed - shared == options - _options("predict")


def test_table_of_sockets_is_read(tmp_path):
    (example,) = _blocks(PAGES["docs/grand-challenge.md"], "toml")
    (tmp_path / "sockets.toml").write_text(example)
    (interface,) = read_interfaces(tmp_path / "sockets.toml")
    assert interface.key == ("my-cell-image", "my-pixel-size")


def test_table_lists_the_fields_of_the_ledger_in_order():
    record = LedgerEntry(file="a", status="done", started_at="")
    listed = _names(row[0] for row in _table("docs/outputs.md", "Ledger fields"))
    assert sorted(listed) == sorted(record.to_dict())
    stored = [field.name for field in dataclasses.fields(LedgerEntry)]
    assert [name for name in listed if name in stored] == stored


def test_table_lists_every_extension():
    listed = _names(row[1] for row in _table(FORMATS, "What is read"))
    assert sorted(listed) == sorted(EXTENSIONS)


def test_table_lists_every_format_that_is_not_read():
    listed = {row[0]: (_names([row[1]]), row[2]) for row in _table(FORMATS, "What is not read")}
    assert listed == {
        name: (list(known.extensions), known.remedy) for name, known in UNREAD_FORMATS.items()
    }


def _is_error(value):
    return isinstance(value, type) and issubclass(value, errors.MediarError)


def test_table_lists_every_class_of_errors():
    listed = _names(row[0] for row in _table("docs/faults.md", "Classes of errors"))
    classes = {name for name, value in vars(errors).items() if _is_error(value)}
    assert sorted(listed) == sorted(classes - {"MediarError"})


def test_table_of_errors_has_their_exit_codes():
    for name, code, *_ in _table("docs/faults.md", "Classes of errors"):
        is_usage = issubclass(
            getattr(errors, name.strip("`")), errors.UsageError | errors.CheckpointError
        )
        assert int(code) == (cli.EXIT_USAGE if is_usage else cli.EXIT_FAILED)


def _written(node):
    """Text of a string in the source, ``…`` where a value is put in; None for anything else."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if isinstance(node, ast.JoinedStr):
        return "".join(_written(part) or "…" for part in node.values)
    return None


def _strings_of_the_package():
    for path in (ROOT / "mediar_infer").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if text := _written(node):
                yield text


def test_quoted_messages_are_those_of_the_package():
    written = "\n".join(_strings_of_the_package())
    headings = re.findall(r"^## (.+)$", PAGES["docs/faults.md"], re.MULTILINE)
    assert headings[:2] == ["Situations", "Classes of errors"]
    for heading in headings[2:]:
        quoted = _names(row[0] for row in _table("docs/faults.md", heading))
        assert quoted
        pattern = {text: ".*".join(map(re.escape, text.split("…"))) for text in quoted}
        assert [text for text in quoted if not re.search(pattern[text], written)] == []


def test_table_gives_the_plans_as_they_are():
    rows = [[cell.strip("`") for cell in row] for row in _table("docs/options.md", "Plans")]
    listed = {row[0]: (int(row[1]), int(row[2]), float(row[3])) for row in rows}
    assert listed == {
        name: (plan.max_members, len(plan.flips), plan.overlap) for name, plan in PLANS.items()
    }


def test_table_gives_the_fallback_order_as_it_is():
    table = _table("docs/time-budget.md", "The fallback order")
    rows = [[cell.strip("`") for cell in row] for row in table]
    listed = [(row[0], int(row[1]), int(row[2]), float(row[3])) for row in rows]
    assert listed == [(step.name, step.max_members, step.n_flips, step.overlap) for step in LADDER]


def test_table_lists_every_exit_code():
    codes = ", ".join(row[0] for row in _table("docs/outputs.md", "Exit codes"))
    assert codes == "0, 1, 2, 130, 143"


def _layers():
    with (ROOT / "pyproject.toml").open("rb") as file:
        contracts = tomllib.load(file)["tool"]["importlinter"]["contracts"]
    (layers,) = [contract["layers"] for contract in contracts if contract["id"] == "layers"]
    return layers


def test_layers_are_listed_as_they_are_checked():
    _, _, section = PAGES["ARCHITECTURE.md"].partition("## What may import what\n")
    assert _blocks(section, "text")[0].splitlines() == _layers()


def test_table_lists_every_room():
    listed = {
        name.strip("/") for name in _names(row[0] for row in _table("ARCHITECTURE.md", "Rooms"))
    }
    rooms = {path.parent.name for path in (ROOT / "mediar_infer").glob("*/__init__.py")}
    assert listed - {"segmenter.py", "container"} == rooms


def _anchors(text):
    """Anchors that a forge and the site give to the headings of a page, and explicit ones."""
    headings = re.findall(r"^#+ (.*?)(?: \{ #[\w-]+ \})?$", text, re.MULTILINE)
    plain = [re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings]
    return {*plain, *re.findall(r"\{ #([\w-]+) \}", text)}


def _links():
    for page, text in PAGES.items():
        prose = re.sub(r"^ *```.*?^ *```$", "", text, flags=re.MULTILINE | re.DOTALL)
        for target in re.findall(r"\]\(([^)\s]+)\)", prose):
            if not re.match(r"[a-z]+:", target):
                yield page, target


def _leads_somewhere(page, target):
    path, _, anchor = target.partition("#")
    file = (ROOT / page).parent / path if path else ROOT / page
    return file.is_file() and (not anchor or anchor in _anchors(file.read_text(encoding="utf-8")))


def test_links_lead_to_files_and_headings():
    links = list(_links())
    assert len(links) > len(PAGES)
    assert [link for link in links if not _leads_somewhere(*link)] == []


def _named_files():
    folders = r"weights|benchmarks|docs|tests|mediar_infer|\.ci"
    pattern = rf"`((?:{folders})/[\w./]*|LICENSE|[A-Z]+\.(?:md|cff))`"
    return {(page, name) for page, text in PAGES.items() for name in re.findall(pattern, text)}


def test_every_file_that_is_named_exists():
    named = {name for page, name in _named_files() if page != "CHANGELOG.md"}
    named = {name for name in named if "NAME" not in name and not name.startswith("weights/mine")}
    assert {"LICENSE", "benchmarks/results/", "tests/parity/"} <= named
    assert sorted(name for name in named if not (ROOT / name).exists()) == []


def test_every_public_name_has_an_entry():
    listed = re.findall(r"^::: mediar_infer\.(\w+)$", PAGES["docs/python.md"], re.MULTILINE)
    assert sorted([*listed, "__version__"]) == sorted(mediar_infer.__all__)


def test_python_example_runs(weights_dir, monkeypatch, capsys):
    (example,) = _blocks(PAGES["docs/python.md"], "python")
    monkeypatch.setenv("MEDIAR_WEIGHTS", str(weights_dir))
    exec(compile(example, "python.md", "exec"), {})
    assert re.match(r"\d+ \{'", capsys.readouterr().out)


def test_site_is_built_strictly(tmp_path):
    if importlib.util.find_spec("mkdocs") is None or importlib.util.find_spec("material") is None:
        pytest.skip("the packages of requirements-docs.txt are not installed; make docs builds it")
    # Not quiet: warnings that are not shown are not counted by --strict.
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", tmp_path],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert len(list(tmp_path.rglob("*.html"))) > len(PAGES) - 1
