"""The command line: every command's help, exit codes, and small runs through it."""

import argparse

import pytest
from fakes import tiny_state_dict
from safetensors.torch import save_file
from small_runs import RECIPE_HEAD, make_records

from mediar_infer.commands.arguments import walk_actions
from mediar_infer.training.__main__ import COMMANDS, build_parser, main
from mediar_infer.training.commands.finetune import find_finetuning
from mediar_infer.training.data.table import write_table
from mediar_infer.training.stages.recipe_files import find_recipe, read_recipe

pytestmark = pytest.mark.usefixtures("keep_logging")

RECIPE = f"""{RECIPE_HEAD}[defaults]
batch_size = 2
crop_size = 64
learning_rate = 1e-3
final_learning_rate = 1e-5
[stages.pretrain_phase1]
start = "random"
roles = ["public"]
steps = 200
[stages.finetune_phase1]
start = "stage:pretrain_phase1"
roles = ["target"]
epochs = 50
validate_every = 25
select = "f1"
"""


@pytest.fixture
def arguments(tmp_path):
    write_table(make_records(tmp_path / "images"), tmp_path / "table.csv")
    (tmp_path / "tiny.toml").write_text(RECIPE)
    options = ["--table", "table.csv", "--run", "run", "--device", "cpu", "--scale", "0.01"]
    paths = {"table.csv", "run"}
    options = [str(tmp_path / each) if each in paths else each for each in options]
    return [str(tmp_path / "tiny.toml"), *options]


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help(command, capsys):
    with pytest.raises(SystemExit) as stopped:
        main([command, "--help"])
    assert stopped.value.code == 0
    told = capsys.readouterr().out
    assert command in told
    if command == "convert":
        assert "cellpose   NNN_img.png with NNN_masks.png" in told


@pytest.mark.parametrize("command", COMMANDS)
def test_every_option_has_help(command):
    without = [
        action.dest
        for action in walk_actions(build_parser(command))
        if not action.help and not isinstance(action, argparse._SubParsersAction)
    ]

    assert without == []


def test_run_by_phases_prints_its_weights_and_is_drawn(arguments, tmp_path, capsys):
    assert main(["pretrain", *arguments, "--phase", "1"]) == 0
    assert main(["finetune", *arguments, "--from-phase", "1"]) == 0
    printed = capsys.readouterr().out.splitlines()
    weights = tmp_path / "run" / "finetune_phase1" / "weights.safetensors"
    assert printed[-1] == f"finetune_phase1  {weights}"
    picture = tmp_path / "curves.png"
    assert main(["curves", str(tmp_path / "run"), "-o", str(picture)]) == 0
    assert picture.read_bytes()[1:4] == b"PNG"
    output = tmp_path / "out" / "mine.safetensors"
    assert main(["export", str(weights), "-o", str(output), "--no-graph"]) == 0
    assert output.is_file()
    # all is finished: training again needs --resume
    assert main(["train", *arguments]) == 2
    assert main(["train", *arguments, "--resume"]) == 0


def test_wrong_recipe_table_and_phase_are_wrong_use(arguments, tmp_path, capsys):
    assert main(["train", "none.toml", *arguments[1:]]) == 2
    assert main(["pretrain", *arguments, "--phase", "2"]) == 2
    assert "found no stage 'pretrain_phase2'" in capsys.readouterr().err
    (tmp_path / "table.csv").unlink()
    assert main(["train", *arguments]) == 2


def test_damaged_table_is_bad_data(arguments, tmp_path, capsys):
    (tmp_path / "table.csv").write_text("x\n")
    assert main(["train", *arguments]) == 1
    assert "without image_id, role" in capsys.readouterr().err


def test_select_prints_the_best_first(tmp_path, capsys):
    write_table(make_records(tmp_path / "images"), tmp_path / "table.csv")
    paths = []
    for seed in (0, 1):
        paths.append(str(tmp_path / f"{seed}.safetensors"))
        save_file(tiny_state_dict(seed), paths[-1])
    options = ["--table", str(tmp_path / "table.csv"), "--device", "cpu"]
    assert main(["select", *paths, *options, "-o", str(tmp_path / "scores.csv")]) == 0
    values = [float(line.split()[0]) for line in capsys.readouterr().out.splitlines()]
    assert values == sorted(values, reverse=True)
    assert len((tmp_path / "scores.csv").read_text().splitlines()) == 1 + 2 * 2
    assert main(["select", *paths, *options, "--by", "count"]) == 0


def test_finetuning_follows_its_pretraining_to_the_end():
    small = read_recipe(find_recipe("small"))
    for phase in (1, 2):
        names = [f"{name}_phase{phase}" for name in ("finetune", "broaden", "settle")]
        assert find_finetuning(small, phase) == names


def test_wrong_option_is_named_below_the_usage_of_its_command(capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["curves", "run", "-o", "a.png", "--stge", "one"])
    assert stopped.value.code == 2
    err = capsys.readouterr().err
    assert err.startswith("usage: python -m mediar_infer.training curves [-h]")
    assert err.endswith("unrecognized arguments: --stge one; did you mean --stage?\n")
