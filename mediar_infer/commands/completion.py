"""Scripts for the shell that complete commands, options and paths."""

import argparse

import shtab

from mediar_infer.commands.arguments import walk_actions


def completion_script(parser: argparse.ArgumentParser, shell: str) -> str:
    """Write the completion script of a parser.

    Args:
        parser: parser with all commands and their options.
        shell: ``bash``, ``zsh``, ``fish`` or ``tcsh``.

    Returns:
        Text for the shell to source.
    """
    for action in walk_actions(parser):
        if action.metavar in ("DIR", "FILE", "PATH", "PREDICTED", "TRUE"):
            action.complete = shtab.DIR if action.metavar == "DIR" else shtab.FILE  # type: ignore[attr-defined]
    return shtab.complete(parser, shell)
