"""Recipes: strict reading, the paper's Table 3, scaling."""

from dataclasses import fields

import pytest
from small_runs import STAGE, VALUES, make_recipe

from mediar_infer.config import EngineConfig
from mediar_infer.errors import UsageError
from mediar_infer.training.augmentation.settings import Augmentation
from mediar_infer.training.stages.recipe_files import (
    RECIPES_DIR,
    find_recipe,
    merge_values,
    parse_recipe,
    read_recipe,
)

PACKAGED = sorted(path.stem for path in RECIPES_DIR.glob("*.toml"))


def refuse(changes, match):
    with pytest.raises(UsageError, match=match):
        parse_recipe(merge_values(VALUES, changes), "my.toml")


def test_packaged_recipes_are_read():
    assert PACKAGED == ["broad", "comparison", "finetune", "pair", "paper", "small"]
    for name in PACKAGED:
        assert read_recipe(find_recipe(name)).name == name


def test_paper_recipe_holds_table_3():
    recipe = read_recipe(find_recipe("paper"))
    assert (recipe.seed, recipe.model.encoder, recipe.model.encoder_weights) == (
        19940817, "mit_b5", "imagenet",
    )  # fmt: skip
    pretrain1, pretrain2, finetune1, finetune2 = recipe.stages
    assert [stage.epochs for stage in recipe.stages] == [80, 60, 200, 25]
    assert [stage.start for stage in recipe.stages] == [
        "encoder", "stage:pretrain_phase1", "stage:pretrain_phase1", "stage:pretrain_phase2",
    ]  # fmt: skip
    for stage in recipe.stages:
        assert (stage.batch_size, stage.crop_size, stage.precision) == (9, 512, "float16")
        assert (stage.schedule, stage.t_max_epochs, stage.warmup_steps) == ("cosine", 100, 0)
        assert stage.augmentation == Augmentation()
    for stage in (pretrain1, pretrain2):
        assert (stage.learning_rate, stage.final_learning_rate) == (5e-5, 1e-6)
        assert stage.memory_per_batch == 0
    for stage in (finetune1, finetune2):
        assert (stage.learning_rate, stage.final_learning_rate) == (2e-5, 1e-7)
        assert (stage.roles, stage.memory_roles, stage.memory_per_batch) == (
            ("target",), ("public",), 1,
        )  # fmt: skip
        assert (stage.sampling, stage.amplify_to, stage.select) == ("amplified", 50, "f1")
        assert stage.excludes_boundary == ("public",)
    assert pretrain1.roles == ("public",)
    assert pretrain2.roles == ("public", "target")
    assert (finetune1.relabelled, finetune2.relabelled) == (False, True)
    assert recipe.discovery.n_clusters == 40


def test_small_recipe_makes_both_models_in_the_steps_of_the_default_pair():
    recipe = read_recipe(find_recipe("small"))
    assert sum(stage.steps for stage in recipe.stages) == 2 * (600 + 1400 + 2300 + 400)
    assert [(blend.name, blend.share) for blend in recipe.blends] == [
        ("from_phase1", 0.65), ("from_phase2", 0.65),
    ]  # fmt: skip
    assert recipe.model.architecture.name == "mit_b0"
    assert all(stage.ema_decay == 0.995 for stage in recipe.stages)
    assert recipe.stage("broaden_phase1").augmentation.zoom_range == (0.4, 2.2)


@pytest.mark.parametrize("name", ["broad", "finetune", "pair"])
def test_recipes_for_the_engine_end_on_crops_of_its_windows_size(name):
    recipe = read_recipe(find_recipe(name))
    followed = {stage.start.removeprefix("stage:") for stage in recipe.stages}
    last = [stage for stage in recipe.stages if stage.name not in followed]
    assert last
    for stage in last:
        assert stage.crop_size == EngineConfig().roi_size
        assert stage.freeze_norm_statistics


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"sead": 1}, r"my\.toml: found unknown key 'sead' in the recipe"),
        ({"seed": "1"}, "seed: found '1', expected a whole number"),
        ({"seed": 20261127170000}, "seed: found 20261127170000, expected 0 to 4,294,967,295"),
        ({"model": {"enc": 1}}, r"unknown key 'enc' in \[model\], expected some of network, enc"),
        ({"model": {"encoder": "b0"}}, r"\[model\] encoder: found 'b0', expected one of mit_b0"),
        ({"model": {"drop_path": "0"}}, r"\[model\] drop_path: found '0', expected a number"),
        ({"model": {"pab_channels": True}}, "pab_channels: found True, expected a whole number"),
        ({"model": {"decoder_channels": 3}}, "decoder_channels: found 3, expected a list"),
        ({"model": 3}, "model: found 3, expected a table"),
        ({"data": {"workers": -1}}, r"\[data\] workers: found -1"),
        ({"defaults": {"stepss": 1}}, r"unknown key 'stepss' in \[defaults\]"),
        ({"augmentation": {"noise_sigma": -1.0}}, r"augmentation\].*noise_sigma: found -1"),
        ({"augmentation": {"zoom_range": [1.0]}}, r"zoom_range: found \[1.0\], expected 2 values"),
        ({"blends": {"a": {"first": "x", "second": "x", "share": 0.5}}}, "found stage 'x'"),
    ],
)
def test_wrong_recipe_names_file_table_and_key(changes, match):
    refuse(changes, match)


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"learning_rat": 1}, r"unknown key 'learning_rat' in \[stages\.pretrain_phase1\]"),
        ({"steps": 0}, "expected exactly one of them"),
        ({"epochs": 1}, "expected exactly one of them"),
        ({"steps": 1.5}, "steps: found 1.5, expected a whole number"),
        ({"crop_size": 100}, "crop_size: found 100, expected a multiple of 32"),
        ({"batch_size": 0}, "batch_size"),
        ({"accumulate": 3}, "accumulate: found 3, expected a divisor of batch_size 4"),
        ({"roles": ["publik"]}, r"roles: found \['publik'\]"),
        ({"roles": []}, "roles: found none"),
        ({"memory_per_batch": 1}, "expected both or neither"),
        ({"memory_roles": ["target"], "memory_per_batch": 4}, "at least one other crop"),
        ({"sampling": "some"}, "sampling: found 'some', expected one of all, amplified, balanced"),
        ({"precision": "half"}, "precision: found 'half'"),
        ({"learning_rate": 0.0}, "learning_rate: found 0.0"),
        ({"final_learning_rate": 1.0}, "final_learning_rate: found 1.0"),
        ({"ema_decay": 1.0}, "ema_decay: found 1.0"),
        ({"start": "stage:"}, "start: found 'stage:'"),
        ({"start": "stage:later"}, "expected an earlier stage"),
        ({"start": "encoder"}, "found 'encoder' without"),
        ({"patience": 2}, "patience: found 2"),
        ({"checkpoint_every": 0}, "checkpoint_every: found 0"),
        ({"learning_rate": float("nan")}, "expected a number"),
    ],
)
def test_impossible_stage_names_table_and_key(changes, match):
    refuse({"stages": {"pretrain_phase1": changes}}, match)


@pytest.mark.parametrize("key", ["name", "seed"])
def test_missing_name_or_seed_is_named(key):
    values = {name: value for name, value in VALUES.items() if name != key}
    with pytest.raises(UsageError, match=rf"my\.toml: found no {key}, expected one above"):
        parse_recipe(values, "my.toml")


def test_missing_key_is_named():
    values = {**VALUES, "stages": {"one": {k: v for k, v in STAGE.items() if k != "roles"}}}
    with pytest.raises(UsageError, match=r"\[stages.one\] lacks a key .*'roles'"):
        parse_recipe(values, "my.toml")


def test_unknown_recipe_lists_the_packaged_ones(tmp_path):
    with pytest.raises(UsageError, match="one of broad, comparison, finetune, pair, paper, small"):
        find_recipe("medium")
    (tmp_path / "x.toml").write_text("name = ")
    with pytest.raises(UsageError, match=r"x\.toml: found no TOML"):
        read_recipe(tmp_path / "x.toml")


def test_stage_takes_defaults_and_augmentation_unless_it_has_its_own():
    changes = {
        "defaults": {"weight_decay": 0.5, "batch_size": 2},
        "augmentation": {"noise_sigma": 0.25, "zoom_range": [0.5, 2]},
        "stages": {"pretrain_phase1": {"augmentation": {"noise_sigma": 0.5}}},
    }
    first, second = make_recipe(changes).stages
    assert (first.weight_decay, first.batch_size) == (0.5, 4)
    assert (first.augmentation.noise_sigma, second.augmentation.noise_sigma) == (0.5, 0.25)
    assert first.augmentation.zoom_range == second.augmentation.zoom_range == (0.5, 2.0)


def test_values_are_merged_without_changing_them():
    base = {"a": {"b": 1, "c": 2}, "d": 3}
    assert merge_values(base, {"a": {"b": 5}, "e": 6}) == {"a": {"b": 5, "c": 2}, "d": 3, "e": 6}
    assert base == {"a": {"b": 1, "c": 2}, "d": 3}


def test_scale_shortens_every_length_and_keeps_at_least_one_step():
    small = read_recipe(find_recipe("small")).scaled(0.01)
    assert [stage.steps for stage in small.stages] == [6, 6, 14, 23, 4, 14, 23, 4]
    assert [stage.warmup_steps for stage in small.stages][:2] == [1, 1]
    assert small.stages[0].ema_from_step == 2
    paper = read_recipe(find_recipe("paper")).scaled(0.01)
    assert [stage.epochs for stage in paper.stages] == pytest.approx([0.8, 0.6, 2, 0.25])
    assert paper.stages[0].t_max_epochs == 1
    with pytest.raises(UsageError, match="found scale 0"):
        read_recipe(find_recipe("small")).scaled(0)


def test_description_holds_all_but_how_images_are_loaded():
    plain = make_recipe().to_plain()
    assert set(plain) == {field.name for field in fields(make_recipe())} - {"data"}
    assert plain["stages"][0]["roles"] == ["public"]
