"""Building blocks of every command's parser: options that come from a dataclass, and examples.

A field of a dataclass is the one source of an option: its type is the option's type, its default
the option's default, and the docstring under it the option's help.
"""

import argparse
import ast
import dataclasses
import inspect
import sys
import types
import typing
from collections.abc import Iterator
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

NONE: Final = "none"
"""How the command line spells ``None``."""

_METAVARS: Final[dict[object, str]] = {int: "N", float: "X", str: "NAME", Path: "PATH"}


@lru_cache
def read_field_docs(config: type) -> dict[str, str]:
    """Docstrings under the fields of a class, each as one line without marks of code.

    Args:
        config: class whose module has its source at hand.

    Returns:
        Field → docstring; empty if the source is not at hand.
    """
    try:
        tree = ast.parse(inspect.getsource(sys.modules[config.__module__]))
    except OSError:
        return {}
    (body,) = (
        node.body
        for node in tree.body
        if isinstance(node, ast.ClassDef) and node.name == config.__name__
    )
    docs: dict[str, str] = {}
    for field, below in pairwise(body):
        if (
            isinstance(field, ast.AnnAssign)
            and isinstance(field.target, ast.Name)
            and isinstance(below, ast.Expr)
            and isinstance(below.value, ast.Constant)
        ):
            text = inspect.cleandoc(str(below.value.value))
            docs[field.target.id] = " ".join(text.split()).replace("``None``", NONE)
    return {name: text.replace("``", "") for name, text in docs.items()}


def add_option(
    parser: argparse._ActionsContainer,
    config: type,
    field: str,
    *flags: str,
    **settings: Any,  # noqa: ANN401
) -> argparse.Action:
    """Add an option whose type, default and help come from a field of a dataclass.

    Args:
        parser: parser or group.
        config: dataclass.
        field: name of its field; the option is called after it.
        flags: other names for the option, such as ``-o`` and ``--output``.
        settings: what differs, as for ``add_argument``; besides, ``note`` is added to the help, and
            ``default_text`` describes a default that has no value of its own.

    Returns:
        What ``add_argument`` returns.
    """
    (found,) = (each for each in dataclasses.fields(config) if each.name == field)
    note, default_text = settings.pop("note", ""), settings.pop("default_text", None)
    if found.type is bool:
        derived: dict[str, Any] = {"action": "store_true"}
    else:
        derived = {"default": _default_of(found)} | _kind_of(typing.get_type_hints(config)[field])
    derived["help"] = _to_help(read_field_docs(config).get(field, ""))
    merged = derived | settings
    merged["help"] += note
    if default_text is None and merged.get("default") not in (None, "", [], ()):
        default_text = "%(default)s"
    if default_text is not None:
        merged["help"] += f" (default: {default_text})"
    return parser.add_argument(*(flags or [f"--{field.replace('_', '-')}"]), **merged)


def _default_of(field: "dataclasses.Field[Any]") -> object:
    if field.default_factory is not dataclasses.MISSING:
        return field.default_factory()
    return None if field.default is dataclasses.MISSING else field.default


def _kind_of(hint: object) -> dict[str, Any]:
    """Settings of ``add_argument`` that a type calls for."""
    if typing.get_origin(hint) is typing.Literal:
        return {"choices": typing.get_args(hint)}
    kinds = [kind for kind in typing.get_args(hint) or [hint] if kind is not types.NoneType]
    if len(kinds) > 1 or kinds[0] not in _METAVARS:
        return {}  # the caller says how such a value is parsed
    (kind,) = kinds
    return {"metavar": _METAVARS[kind], "type": kind}


def _to_help(text: str) -> str:
    """A docstring as argparse's help: no capital at the start, no full stop at the end."""
    is_word = text[1:2].islower() or text[1:2] == " "
    return (
        ((text[:1].lower() if is_word else text[:1]) + text[1:])
        .removesuffix(".")
        .replace("%", "%%")
    )


def add_examples(parser: argparse.ArgumentParser, *examples: tuple[str, str]) -> None:
    """Show examples at the end of a command's help.

    Args:
        parser: parser of the command.
        examples: what is done, and the command line that does it.
    """
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    lines = [f"  {line}\n      {purpose}" for purpose, line in examples]
    parser.epilog = "\n".join(["examples:", *lines])


def walk_actions(parser: argparse.ArgumentParser) -> Iterator[argparse.Action]:
    """Every argument of a parser and of the parsers of its sub-commands."""
    for action in parser._actions:
        yield action
        if isinstance(action, argparse._SubParsersAction):
            for child in action.choices.values():
                yield from walk_actions(child)
