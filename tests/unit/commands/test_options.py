"""Options that commands share become settings."""

import argparse
from dataclasses import replace
from pathlib import Path

import pytest

from mediar_infer.commands import options
from mediar_infer.config import PLANS, EngineConfig, MaskConfig, Plan, RuntimeConfig
from mediar_infer.errors import UsageError


def _parse(*arguments):
    parser = argparse.ArgumentParser()
    parser.add_argument("--output", default="out")
    options.add_engine_arguments(parser)
    options.add_reading_arguments(parser)
    options.add_ledger_argument(parser)
    options.add_budget_arguments(parser)
    return parser.parse_args(arguments)


def test_no_option_gives_the_default_settings():
    assert options.to_engine_config(_parse()) == EngineConfig()


def test_every_option_reaches_its_setting():
    args = _parse(
        "--plan", "fast", "--models", "2", "--flips", "vertical,identity", "--overlap", "0.5",
        "--device", "cpu", "--precision", "bfloat16", "--backend", "torch", "--batch", "3",
        "--threads", "1", "--blocks", "paper", "--block-size", "640",
        "--cellprob-threshold", "0.4", "--flow-threshold", "none",
        "--released-holes",
    )  # fmt: skip
    assert options.to_engine_config(args) == EngineConfig(
        plan=Plan("custom", 2, ("identity", "vertical"), 0.5),
        masks=MaskConfig(
            cellprob_threshold=0.4,
            flow_threshold=None,
            blocks="paper",
            block_size=640,
            fill_holes=False,
        ),
        runtime=RuntimeConfig(
            device="cpu", precision="bfloat16", backend="torch", batch=3, threads=1
        ),
    )


@pytest.mark.parametrize("name", PLANS)
def test_plan_keeps_its_name_unless_a_choice_differs(name):
    plan = PLANS[name]
    assert options.to_engine_config(_parse("--plan", name)).plan == plan
    same = _parse("--plan", name, "--overlap", str(plan.overlap))
    assert options.to_engine_config(same).plan == plan
    other = options.to_engine_config(_parse("--plan", name, "--overlap", "0.1")).plan
    assert other == replace(plan, name="custom", overlap=0.1)


def test_no_flips_are_the_identity_and_an_unknown_one_is_named():
    assert options.to_engine_config(_parse("--flips", "none")).plan.flips == ("identity",)
    with pytest.raises(UsageError, match="--flips diagonal: found diagonal, expected none or some"):
        options.to_engine_config(_parse("--flips", "diagonal"))


def test_more_models_than_a_pair_are_refused(capsys):
    with pytest.raises(SystemExit):
        _parse("--models", "3")
    assert "argument --models: invalid choice: 3 (choose from 1, 2)" in capsys.readouterr().err


def test_budget_scale_needs_a_budget():
    assert options.to_budget_scale(_parse()) is None
    assert options.to_budget_scale(_parse("--fit-budget")) == options.BUDGET_SCALE
    assert options.to_budget_scale(_parse("--fit-budget", "--budget-scale", "0.5")) == 0.5
    with pytest.raises(UsageError, match=r"found --budget-scale 0\.5 without --fit-budget"):
        options.to_budget_scale(_parse("--budget-scale", "0.5"))


def test_ledger_goes_where_option_variable_or_output_say(monkeypatch):
    monkeypatch.delenv("MEDIAR_LEDGER", raising=False)
    assert options.to_ledger_dir(_parse()) == Path("out")
    assert options.to_ledger_dir(_parse("--ledger", "none")) is None
    monkeypatch.setenv("MEDIAR_LEDGER", "there")
    assert options.to_ledger_dir(_parse()) == Path("there")
    assert options.to_ledger_dir(_parse("--ledger", "here")) == Path("here")
    monkeypatch.setenv("MEDIAR_LEDGER", "none")
    assert options.to_ledger_dir(_parse()) is None
