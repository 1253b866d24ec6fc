"""Options that come from a dataclass: name, type, default and help have one source."""

import argparse
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import pytest

from mediar_infer.commands.arguments import (
    add_examples,
    add_option,
    read_field_docs,
)
from mediar_infer.config import EngineConfig, MaskConfig, Plan, RuntimeConfig


@dataclass(frozen=True)
class Brewing:
    """How coffee is made."""

    strength: float = 0.7
    """Share of beans, 100 % at
    most; ``None`` is water."""
    beans: Literal["arabica", "robusta"] = "arabica"
    """Kind of beans."""
    n_cups: int | None = None
    """CPU-sized cups."""
    recipe: Path = Path("plain")
    with_milk: bool = False
    """Add milk."""
    sizes: tuple[int, ...] = field(default_factory=lambda: (1, 2))
    """Sizes of cups."""


@pytest.fixture
def parser():
    return argparse.ArgumentParser(prog="brew")


def test_docstrings_under_fields_are_read_as_single_lines():
    assert read_field_docs(Brewing) == {
        "strength": "Share of beans, 100 % at most; none is water.",
        "beans": "Kind of beans.",
        "n_cups": "CPU-sized cups.",
        "with_milk": "Add milk.",
        "sizes": "Sizes of cups.",
    }


def test_a_class_without_source_has_no_docs(monkeypatch):
    read_field_docs.cache_clear()
    monkeypatch.setattr(sys.modules[__name__], "__file__", "gone.py")
    monkeypatch.setattr(sys.modules[__name__], "__loader__", None)
    monkeypatch.setattr(sys.modules[__name__], "__spec__", None)
    assert read_field_docs(Brewing) == {}
    read_field_docs.cache_clear()


@pytest.mark.parametrize("config", [Plan, MaskConfig, RuntimeConfig, EngineConfig])
def test_every_setting_has_a_docstring(config):
    assert read_field_docs(config).keys() == config.__dataclass_fields__.keys()


def test_option_takes_type_default_and_help_from_its_field(parser):
    for name in ("strength", "beans", "n_cups", "recipe", "with_milk"):
        add_option(parser, Brewing, name)
    nothing = parser.parse_args([])
    assert vars(nothing) == {
        "strength": 0.7, "beans": "arabica", "n_cups": None, "recipe": Path("plain"),
        "with_milk": False,
    }  # fmt: skip
    given = ["--strength", "1", "--n-cups", "3", "--recipe", "a/b", "--with-milk"]
    args = parser.parse_args([*given, "--beans", "robusta"])
    assert (args.strength, args.n_cups, args.recipe) == (1.0, 3, Path("a/b"))
    assert args.with_milk is True
    text = " ".join(parser.format_help().split())
    assert "--strength X share of beans, 100 % at most; none is water (default: 0.7)" in text
    assert "--beans {arabica,robusta} kind of beans (default: arabica)" in text
    assert "--n-cups N CPU-sized cups --recipe PATH (default: plain)" in text
    assert text.endswith("--with-milk add milk")


def test_option_of_another_kind_is_described_by_the_caller(parser):
    add_option(
        parser, Brewing, "sizes", "-s", "--cup-sizes", type=int, nargs="+", metavar="PX",
        default=None, note=", in order", default_text="those of the recipe",
    )  # fmt: skip
    assert parser.parse_args(["-s", "3", "4"]).cup_sizes == [3, 4]
    text = " ".join(parser.format_help().split())
    assert "PX ...] sizes of cups, in order (default: those of the recipe)" in text


def test_unknown_field_is_an_error(parser):
    with pytest.raises(ValueError, match="not enough values"):
        add_option(parser, Brewing, "sugar")


def test_examples_end_the_help(parser):
    add_examples(parser, ("make one cup", "brew --n-cups 1"), ("make 100 %", "brew"))
    end = parser.format_help().partition("examples:\n")[2]
    assert end == "  brew --n-cups 1\n      make one cup\n  brew\n      make 100 %\n"
