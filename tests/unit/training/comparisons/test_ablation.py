"""The paper's tables as runs of a few steps; the packaged files against the paper's values."""

import json
from argparse import ArgumentParser
from dataclasses import replace

import numpy as np
import pytest
import tifffile
from small_runs import STAGE, VALUES, make_record, make_records

from mediar_infer.errors import UsageError
from mediar_infer.labels.reading import read_labels
from mediar_infer.training.commands import ablate as ablate_command
from mediar_infer.training.comparisons import ablation
from mediar_infer.training.comparisons.ablation import RowResult, Setting, hide_labels, run_table
from mediar_infer.training.comparisons.ablation_report import write_report
from mediar_infer.training.comparisons.ablation_table import TABLES_DIR, find_table, read_ablation
from mediar_infer.training.data.table import write_table
from mediar_infer.training.stages.execution import Execution
from mediar_infer.training.stages.recipe_files import find_recipe, merge_values, read_values

PAPER = {
    5: [0.5473, 0.6034, 0.6320, 0.6503, 0.8292, 0.8347, 0.8424],
    6: [0.8801, 0.8881, 0.8921, 0.9000, 0.8979],
    7: [0.8801, 0.9000, 0.8881, 0.8876, 0.9011, 0.8849],
    8: [0.8801, 0.8720, 0.8798, 0.8798, 0.8655],
}
PAPER_LOSS = [0.9592, 0.6777, 0.6776, 0.6206, 0.4507, 0.4268, 0.4144]

# Sampling and memory as the packaged recipes have them, for all stages that the tables name.
RECIPE = merge_values(
    VALUES,
    {
        "discovery": {"from_stage": "pretrain_phase1", "n_clusters": 2},
        "relabelling": {"from_stage": "pretrain_phase2"},
        "stages": {
            "pretrain_phase1": {"steps": 2},
            "pretrain_phase2": {**STAGE, "steps": 2, "roles": ["public", "target"]},
            "finetune_phase1": {"steps": 2, "sampling": "amplified", "amplify_to": 2},
            "finetune_phase2": {
                **STAGE,
                "start": "stage:pretrain_phase2",
                "roles": ["target"],
                "memory_roles": ["public"],
                "memory_per_batch": 1,
                "steps": 2,
                "relabelled": True,
            },
        },
    },
)


def make_setting(folder, **options):
    records = make_records(folder / "data")
    records += [make_record(folder / "data", f"bare{i}", "unlabelled") for i in range(2)]
    execution = Execution(device="cpu", threads=1, resume=True)
    return Setting(RECIPE, "tiny.toml", records, folder / "runs", execution=execution, **options)


@pytest.mark.parametrize("number", PAPER)
def test_packaged_table_holds_the_papers_values(number):
    table = read_ablation(find_table(str(number)))
    assert table.number == number
    assert [row.paper_f1 for row in table.rows] == PAPER[number]
    if number == 5:
        assert [row.paper_loss for row in table.rows] == PAPER_LOSS


@pytest.mark.parametrize("number", PAPER)
@pytest.mark.parametrize("name", ["paper", "small"])
def test_every_row_fits_the_packaged_recipes(number, name, tmp_path):
    if number == 5:
        pytest.importorskip("einops", reason="MONAI's transformers need einops")
    table, path = read_ablation(find_table(f"table{number}")), find_recipe(name)
    setting = replace(make_setting(tmp_path), recipe=read_values(path), where=str(path))
    ablation._SeedRun(table, setting, 1, table.rows).check()


def row_recipes(number, name="paper"):
    table = read_ablation(find_table(f"table{number}"))
    setting = Setting(read_values(find_recipe(name)), name, (), TABLES_DIR)
    run = ablation._SeedRun(table, setting, 1, table.rows)
    return {row.key: run.recipe(row) for row in table.rows}


def test_table_5_climbs_from_the_base_structure_to_the_engines_network():
    recipes = row_recipes(5)
    steps = [
        (r.model.network, r.model.decoder_channels[0], r.stage("finetune_phase1").start)
        for r in map(recipes.get, ("base", "encoder", "decoder", "heads"))
    ]
    assert steps == [
        ("mediar_former_one_head", 256, "random"),
        ("mediar_former_one_head", 256, "encoder"),
        ("mediar_former_one_head", 1024, "encoder"),
        ("mediar_former", 1024, "encoder"),
    ]
    assert {r.stage("finetune_phase1").learning_rate for r in recipes.values()} == {5e-5}
    assert {r.stage("finetune_phase1").epochs for r in recipes.values()} == {200}


def test_table_6_adds_one_component_per_row():
    stages = [recipe.stage("finetune_phase1") for recipe in row_recipes(6).values()]
    parts = [
        (s.augmentation.cell_intensity_probability > 0, s.sampling == "amplified",
         s.memory_per_batch > 0, s.relabelled)
        for s in stages
    ]  # fmt: skip
    assert [sum(part) for part in parts] == [0, 1, 2, 3, 4]


def test_table_7_varies_the_ratio_of_a_batch_of_nine():
    recipes = row_recipes(7)
    for phase in (1, 2):
        stages = [
            recipes[f"phase{phase}_memory{m}"].stage(f"finetune_phase{phase}") for m in range(3)
        ]
        assert [(s.fresh_per_batch, s.memory_per_batch) for s in stages] == [(9, 0), (8, 1), (7, 2)]


def test_table_8_shows_every_row_nine_labelled_crops():
    stages = [recipe.stage("finetune_phase1") for recipe in row_recipes(8).values()]
    assert [stage.fresh_per_batch for stage in stages] == [9] * 5
    assert [stage.memory_roles for stage in stages[1:4]] == [("unlabelled",)] * 3


@pytest.mark.slow
@pytest.mark.parametrize("number", [6, 7, 8])
def test_all_rows_run(number, tmp_path):
    table = read_ablation(find_table(str(number)))
    results = run_table(table, make_setting(tmp_path), 1)
    assert [result.key for result in results] == [row.key for row in table.rows]


@pytest.mark.parametrize(
    ("number", "keys"), [(6, ["consistency"]), (8, ["reconstruction_cells", "pseudo_labels"])]
)
def test_rows_are_scored_and_go_on_where_they_were(number, keys, tmp_path, monkeypatch):
    table, setting = read_ablation(find_table(str(number))), make_setting(tmp_path)
    results = run_table(table, setting, 1, keys)
    assert {*keys} <= {result.key for result in results}
    assert all(0 <= result.f1 <= 1 and result.n_steps == 2 for result in results)
    assert all(result.n_images == 2 and result.seed == 3 for result in results)
    assert set(results[0].f1_of_modality) == {"public: unknown", "target: unknown"}

    def fail(*_args, **_options):
        raise AssertionError("scored again")

    monkeypatch.setattr(ablation, "score_weights", fail)
    assert run_table(table, setting, 1, keys) == results
    held_out = next(each for each in setting.records if each.split == "val")
    tifffile.imwrite(held_out.label_path, np.roll(read_labels(held_out.label_path), 3, 0))
    with pytest.raises(AssertionError, match="scored again"):
        run_table(table, setting, 1, keys)


def test_table_5_runs_with_the_encoder_of_a_stage_where_there_is_none_of_imagenet(tmp_path):
    table, setting = read_ablation(find_table("5")), make_setting(tmp_path)
    results = run_table(table, setting, 2, ["base", "heads"])
    assert [(result.key, result.seed) for result in results] == [
        (key, seed) for seed in (3, 4) for key in ("base", "heads")
    ]
    shared = tmp_path / "runs" / "seed_4" / "shared"
    assert (shared / "encoder.safetensors").is_file()
    # the shared stage is one of any run with this recipe: another table's will do
    summary = json.loads((shared / "pretrain_phase1" / "summary.json").read_text())
    assert summary["description"]["model"]["encoder_weights"] == ""
    base, heads = results[:2]
    assert base.n_parameters < heads.n_parameters
    assert base.digest != results[2].digest


def test_rows_of_a_seed_share_their_pretraining(tmp_path):
    rows = ["phase1_memory2", "phase2_memory0"]
    run_table(read_ablation(find_table("7")), make_setting(tmp_path), 1, rows)
    folder = tmp_path / "runs" / "seed_3"
    assert (folder / "phase1_memory2" / "pretrain_phase1").is_symlink()
    assert not (folder / "shared" / "pretrain_phase1").is_symlink()
    assert not (folder / "phase2_memory0" / "finetune_phase2").is_symlink()


def test_row_brings_those_that_it_needs():
    table = read_ablation(find_table("8"))
    assert [row.key for row in table.choose(["pseudo_labels"])] == ["baseline", "pseudo_labels"]
    assert table.choose([]) == list(table.rows)


def test_unknown_row_lists_the_known_ones():
    with pytest.raises(UsageError, match="found rows nothing, expected some of unet, unetr"):
        read_ablation(find_table("5")).choose(["nothing"])


def test_unknown_table_lists_the_known_ones():
    with pytest.raises(UsageError, match=r"table9: found no such table.*table5, table6"):
        find_table("table9")


def test_missing_images_are_named_before_anything_is_trained(tmp_path):
    setting = make_setting(tmp_path)
    labelled = [record for record in setting.records if record.role != "unlabelled"]
    with pytest.raises(UsageError, match=r"table 8, row \w+.*roles unlabelled"):
        run_table(read_ablation(find_table("8")), replace(setting, records=labelled), 1)
    assert not setting.run_path.exists()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("nonsense = 1\n", "unknown key 'nonsense'"),
        ('[[rows]]\nkey = "a"\n', "lacks a key"),
        ("[[rows]]\nkey = 1\n", "expected a text"),
        (
            '[[rows]]\nkey = "a"\nlabel = "A"\npaper_f1 = 0.5\nstages = ["s"]\nunlabelled = "x"\n',
            "unlabelled: found 'x'",
        ),
    ],
)
def test_wrong_table_file_names_its_key(tmp_path, text, message):
    path = tmp_path / "mine.toml"
    path.write_text('number = 1\ntitle = "mine"\nroles = ["target"]\n' + text)
    with pytest.raises(UsageError, match=message):
        read_ablation(path)


def test_hidden_labels_are_a_share_of_each_modality_and_only_of_training_targets(tmp_path):
    records = [
        make_record(tmp_path, f"{kind}{i}", "target", modality=kind)
        for kind in ("dic", "neuron")
        for i in range(4)
    ]
    records += [make_record(tmp_path, "held", "target", "val"), make_record(tmp_path, "pub")]
    hidden = hide_labels(records, 0.5, 1)
    bare = [record for record in hidden if record.role == "unlabelled"]
    assert sorted(record.modality for record in bare) == ["dic", "dic", "neuron", "neuron"]
    assert all(record.label_path is None for record in bare)
    assert hidden[-2:] == records[-2:]
    assert hide_labels(records, 0.5, 1) == hidden


def make_result(key, seed, f1):
    return RowResult(key, seed, f1, {"target: dic": f1}, 7, 0.5, 10, 1_000_000, "abc")


def test_report_shows_the_papers_values_beside_ours(tmp_path):
    table = read_ablation(find_table("8"))
    f1s = {"baseline": (0.5, 0.7), "consistency": (0.4, 0.6)}
    results = [
        make_result(key, seed, f1) for key in f1s for seed, f1 in enumerate(f1s[key], start=1)
    ]
    paths = write_report(tmp_path, table, results, {"recipe": "small"})
    assert [path.name for path in paths] == ["table8.md", "table8.json", "table8.png"]
    text = paths[0].read_text()
    assert "| consistency loss | 0.8720 | -0.0081 | 0.5000 | -0.1000 | 0.4000 | 0.6000 |" in text
    assert "pseudo" not in text
    content = json.loads(paths[1].read_text())
    assert content["metadata"]["recipe"] == "small"
    assert content["results"][0]["f1"] == pytest.approx(0.6)
    assert len(content["results"][0]["seeds"]) == 2


def test_command_writes_table_json_and_plot(tmp_path, capsys):
    setting = make_setting(tmp_path)
    write_table(setting.records, tmp_path / "table.csv")
    (tmp_path / "tiny.toml").write_text(to_toml(RECIPE))
    parser = ArgumentParser()
    ablate_command.add_arguments(parser)
    options = ["6", "--recipe", str(tmp_path / "tiny.toml"), "--table", str(tmp_path / "table.csv")]
    options += ["--run", str(tmp_path / "runs"), "--seeds", "1", "--rows", "plain"]
    options += ["--crop-size", "96"]
    assert ablate_command.run(parser.parse_args([*options, "--device", "cpu"])) == 0
    assert str(tmp_path / "runs" / "table6.md") in capsys.readouterr().out
    assert (
        json.loads((tmp_path / "runs" / "table6.json").read_text())["metadata"]["crop size"] == 96
    )
    (trained,) = (tmp_path / "runs").glob("seed_*/plain/recipe.json")
    stages = json.loads(trained.read_text())["recipe"]["stages"]
    assert {stage["crop_size"] for stage in stages} == {96}


def to_toml(values, table=""):
    """A recipe as TOML: plain values of a table first, then the tables below it."""
    plain = {k: v for k, v in values.items() if not isinstance(v, dict)}
    lines = [f"[{table}]"] if table else []
    lines += [f"{key} = {json.dumps(value)}" for key, value in plain.items()]
    for key, value in values.items():
        if isinstance(value, dict):
            lines.append(to_toml(value, f"{table}.{key}".lstrip(".")))
    return "\n".join(lines) + "\n"


def test_smallest_decoder_keeps_two_channels():
    recipe = row_recipes(5)["base"]
    model = replace(recipe.model, decoder_channels=(8, 8, 4, 4, 2), pab_channels=2)
    divided = ablation._divide_decoder(replace(recipe, model=model), 4).model
    assert divided.decoder_channels == (2, 2, 2, 2, 2)
    assert divided.pab_channels == 1
