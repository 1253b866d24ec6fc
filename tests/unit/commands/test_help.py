"""``--help`` of every command: one program name, help for every option, examples that work."""

import argparse
import re
import shlex
import subprocess

import pytest

from mediar_infer import cli
from mediar_infer.commands.arguments import walk_actions

COMMANDS = list(cli._COMMANDS)
METAVARS = {
    "COLUMN", "COLUMN=VALUE", "COMMAND", "ACTION", "DIR", "FILE", "GLOB", "I/N", "LINE", "LIST",
    "N", "NAME", "PATH", "PREDICTED", "PX", "S", "SCHEDULER", "SIZE", "SLUG", "TRUE", "UM", "X",
    "-- OPTIONS",
}  # fmt: skip
"""Placeholders: what a value is, not the option's own name."""


@pytest.fixture(scope="module")
def parsers():
    root = cli.build_parser(*COMMANDS)
    (children,) = (a for a in root._actions if isinstance(a, argparse._SubParsersAction))
    return {"": root} | children.choices


@pytest.mark.parametrize("command", ["", *COMMANDS])
def test_every_argument_has_help_and_a_placeholder_of_one_kind(parsers, command):
    for action in walk_actions(parsers[command]):
        is_choice_of_commands = isinstance(action, argparse._SubParsersAction)
        assert action.help or is_choice_of_commands, action
        if action.choices is None and action.nargs != 0:
            assert action.metavar in METAVARS, action


@pytest.mark.parametrize("command", COMMANDS)
def test_help_starts_with_the_program_and_ends_with_examples_that_parse(parsers, command):
    text = parsers[command].format_help()
    assert text.startswith(f"usage: mediar-infer {command} ")
    examples = re.findall(r"^  (mediar-infer .*)$", text.partition("\nexamples:\n")[2], re.M)
    assert examples
    for example in examples:
        _, *arguments = shlex.split(example)
        assert cli.build_parser(command).parse_args(arguments).command == command


@pytest.mark.parametrize("shell", cli.SHELLS)
def test_completion_script_knows_commands_and_options(shell, capsys):
    pytest.importorskip("shtab", reason="this environment is older than requirements.txt")
    with pytest.raises(SystemExit) as stopped:
        cli.main(["--print-completion", shell])
    assert stopped.value.code == 0
    script = capsys.readouterr().out
    for word in (*COMMANDS, "cellprob-threshold", "without-images", "bfloat16"):
        assert word in script


def test_bash_completes_a_command_an_option_and_a_choice(tmp_path):
    shtab = pytest.importorskip("shtab", reason="this environment is older than requirements.txt")
    assert "bash" in shtab.SUPPORTED_SHELLS
    from mediar_infer.commands.completion import completion_script

    script = tmp_path / "complete.sh"
    script.write_text(completion_script(cli.build_parser(*COMMANDS), "bash"))
    ask = (
        'source "$1"; shift; COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1));'
        '$(complete -p mediar-infer | sed "s/.*-F \\([^ ]*\\).*/\\1/"); echo "${COMPREPLY[@]}"'
    )

    def complete(*words):
        command = ["bash", "-c", ask, "bash", script, *words]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        return done.stdout.split()

    assert complete("mediar-infer", "sub") == ["submission"]
    assert complete("mediar-infer", "predict", "--cellp") == ["--cellprob-threshold"]
    assert complete("mediar-infer", "predict", "--backend", "op") == ["openvino"]
