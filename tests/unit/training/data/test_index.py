import argparse
import csv
import re

import numpy as np
import pytest
import tifffile
from small_data import save_image, save_labels, save_pair

from mediar_infer.errors import UsageError
from mediar_infer.labels.files import write_labels
from mediar_infer.training.commands import index as index_command
from mediar_infer.training.data.index import IndexOptions, index_folders
from mediar_infer.training.data.table import read_table

NO_HOLD_OUT = IndexOptions(hold_out=0)


def run(*arguments):
    parser = argparse.ArgumentParser()
    index_command.add_arguments(parser)
    return index_command.run(parser.parse_args([str(each) for each in arguments]))


def kinds(index):
    return [(each.kind.name, each.path.name, each.kind.outcome) for each in index.problems]


def ids(index):
    return [record.image_id for record in index.records]


def test_labels_beside_their_images_cause_no_warning(tmp_path, caplog):
    save_image(tmp_path / "a.tif", shape=(30, 40), dtype=np.uint16)
    save_labels(tmp_path / "a_label.tif", n_cells=5, shape=(30, 40))
    assert ids(index_folders([tmp_path], options=NO_HOLD_OUT)) == ["a"]
    assert caplog.messages == []


def test_record_says_what_the_files_hold(tmp_path):
    save_image(tmp_path / "a.tif", shape=(30, 40), dtype=np.uint16)
    save_labels(tmp_path / "a_label.tif", n_cells=5, shape=(30, 40))

    (record,) = index_folders([tmp_path], options=NO_HOLD_OUT).records

    assert (record.height, record.width, record.dtype, record.n_cells) == (30, 40, "uint16", 5)
    assert (record.role, record.split, record.modality, record.source) == (
        "target",
        "train",
        "",
        "",
    )
    assert len(record.digest) == 64
    assert record.label_path == tmp_path / "a_label.tif"


def test_usable_image_has_no_problem(tmp_path):
    save_pair(tmp_path, "a")
    save_pair(tmp_path, "single_cell", value=60, n_cells=1)

    index = index_folders([tmp_path])

    assert ids(index) == ["a", "single_cell"]
    assert index.problems == []


def rgb(labels):
    return np.stack([labels, labels * 2, labels], axis=2)


def fractions(labels):
    return labels / np.float32(3)


def one_value(labels):
    return np.where(labels > 0, 255, 0).astype(np.uint8)


def negative(labels):
    return labels.astype(np.int16) - 1


def beyond_int32(labels):
    return labels.astype(np.uint32) * np.uint32(2**30)


def empty(labels):
    return labels * 0


def stack(labels):
    return np.stack([labels] * 5)


@pytest.mark.parametrize(
    ("change", "kind", "found"),
    [
        (rgb, "RGB label", r"shape \(12, 16, 3\)"),
        (fractions, "not instances", "float32"),
        (one_value, "not instances", "2 separate regions, but no numbers other than 255"),
        (negative, "not instances", "numbers from -1 to 1"),
        (beyond_int32, "not instances", "numbers from 0 to 2147483648"),
        (empty, "empty labels", "zeros only"),
        (
            lambda labels: labels.T,
            "mismatched shapes",
            r"\(16, 12\) \(height and width exchanged\)",
        ),
        (lambda labels: labels[:-1], "mismatched shapes", r"\(11, 16\) for an image of \(12, 16\)"),
        (stack, "unreadable labels", r"\(5, 12, 16\)"),
    ],
)
def test_unusable_labels_are_skipped_and_named(tmp_path, change, kind, found):
    save_pair(tmp_path, "good")
    save_image(tmp_path / "bad.png", value=70)
    path = save_labels(tmp_path / "bad_label.tiff")
    labels = change(tifffile.imread(path))
    tifffile.imwrite(
        path, labels, photometric="rgb" if labels.ndim == 3 == labels.shape[2] else None
    )

    index = index_folders([tmp_path])

    assert ids(index) == ["good"]
    assert kinds(index) == [(kind, "bad_label.tiff", "skipped")]
    assert re.search(found, str(index.problems[0]))


def test_classes_in_many_pieces_are_no_instances(tmp_path):
    save_image(tmp_path / "a.png", shape=(40, 40))
    labels = np.zeros((40, 40), np.uint8)
    labels[::4, ::4], labels[2::4, 2::4] = 1, 2  # nuclei are 1 and cells are 2, everywhere
    tifffile.imwrite(tmp_path / "a_label.tiff", labels)

    assert kinds(index_folders([tmp_path])) == [("not instances", "a_label.tiff", "skipped")]


def numbered_background(labels):
    return labels + 1


def test_numbered_background_is_not_a_cell(tmp_path):
    save_pair(tmp_path, "good")
    save_pair(tmp_path, "bad", value=70)
    path = tmp_path / "bad_label.tiff"
    tifffile.imwrite(path, numbered_background(tifffile.imread(path)))

    index = index_folders([tmp_path])

    assert ids(index) == ["good"]
    assert kinds(index) == [("numbered background", "bad_label.tiff", "skipped")]
    assert "no pixel that is 0, and label 1 covers 96%" in str(index.problems[0])


def test_cells_without_gaps_are_kept_with_a_word(tmp_path):
    save_image(tmp_path / "a.png", shape=(12, 16))
    labels = np.kron(np.arange(1, 13, dtype=np.uint8).reshape(3, 4), np.ones((4, 4), np.uint8))
    tifffile.imwrite(tmp_path / "a_label.tiff", labels)

    index = index_folders([tmp_path])

    assert [record.n_cells for record in index.records] == [12]
    assert kinds(index) == [("unusual background", "a_label.tiff", "kept")]


def save_prediction(path):
    labels = tifffile.imread(save_labels(path))
    facts = {"mediar_infer": "0.1.0", "weights": {"a.safetensors": "12ab"}}
    write_labels(path, [labels], height=labels.shape[0], width=labels.shape[1], facts=facts)


def test_own_predictions_are_not_taken_for_truth(tmp_path):
    save_pair(tmp_path, "good")
    save_image(tmp_path / "bad.png", value=70)
    save_prediction(tmp_path / "bad_label.tiff")

    index = index_folders([tmp_path])

    assert ids(index) == ["good"]
    assert kinds(index) == [("predicted labels", "bad_label.tiff", "skipped")]
    assert "predicted with a.safetensors" in str(index.problems[0])
    assert "--accept-predictions" in str(index.problems[0])


def test_own_predictions_are_used_if_asked_for(tmp_path):
    save_image(tmp_path / "a.png")
    save_prediction(tmp_path / "a_label.tiff")

    index = index_folders([tmp_path], options=IndexOptions(accept_predictions=True))

    assert [record.n_cells for record in index.records] == [2]
    assert kinds(index) == [("predicted labels", "a_label.tiff", "kept")]


def test_predictions_that_another_program_saved_again_are_labels(tmp_path):
    save_image(tmp_path / "a.png")
    save_prediction(tmp_path / "a_label.tiff")
    tifffile.imwrite(tmp_path / "a_label.tiff", tifffile.imread(tmp_path / "a_label.tiff"))

    assert kinds(index_folders([tmp_path])) == []


def test_single_cell_with_a_crumb_is_an_instance(tmp_path):
    save_image(tmp_path / "a.png", shape=(40, 40))
    labels = np.zeros((40, 40), np.uint8)
    labels[5:20, 5:20] = 1
    labels[30, 30] = 1
    tifffile.imwrite(tmp_path / "a_label.tiff", labels)

    index = index_folders([tmp_path])

    assert [record.n_cells for record in index.records] == [1]
    assert index.problems == []


def test_empty_labels_are_kept_if_asked_for(tmp_path):
    save_pair(tmp_path, "a", n_cells=0)

    index = index_folders([tmp_path], options=IndexOptions(keep_empty=True))

    assert [record.n_cells for record in index.records] == [0]
    assert kinds(index) == [("empty labels", "a_label.tiff", "kept")]


def test_image_with_some_nan_pixels_is_kept_and_one_with_nothing_else_skipped(tmp_path):
    for name, n_bad in (("some", 3), ("all", 12)):
        image = np.random.default_rng(1).random((12, 16)).astype(np.float32)
        image[:n_bad] = np.nan
        tifffile.imwrite(tmp_path / f"{name}.tif", image)
        save_labels(tmp_path / f"{name}_label.tif")

    index = index_folders([tmp_path])

    assert ids(index) == ["some"]
    assert kinds(index) == [
        ("unreadable image", "all.tif", "skipped"),
        ("NaN pixels", "some.tif", "kept"),
    ]
    assert "48 of 192 pixels NaN" in index.problems[1].found


def test_damaged_files_are_skipped(tmp_path):
    save_pair(tmp_path, "image_cut")
    cut = tmp_path / "image_cut.png"
    cut.write_bytes(cut.read_bytes()[:60])
    save_pair(tmp_path, "label_cut")
    cut = tmp_path / "label_cut_label.tiff"
    cut.write_bytes(cut.read_bytes()[:300])

    index = index_folders([tmp_path])

    assert index.records == []
    assert kinds(index) == [
        ("unreadable image", "image_cut.png", "skipped"),
        ("unreadable labels", "label_cut_label.tiff", "skipped"),
    ]


def test_missing_labels_matter_in_labelled_roles_only(tmp_path):
    save_image(tmp_path / "a.png")

    as_target = index_folders([tmp_path])
    as_tuning = index_folders([tmp_path], options=IndexOptions(role="tuning"))

    assert kinds(as_target) == [("image without label", "a.png", "skipped")]
    assert [(each.role, each.n_cells) for each in as_tuning.records] == [("tuning", 0)]
    assert as_tuning.problems == []


def test_labels_of_an_unlabelled_image_are_not_read_and_named(tmp_path):
    save_image(tmp_path / "a.png")
    (tmp_path / "a_label.tiff").touch()

    index = index_folders([tmp_path], options=IndexOptions(role="unlabelled"))

    assert [record.label_path for record in index.records] == [None]
    assert kinds(index) == [("unused labels", "a_label.tiff", "kept")]


def test_duplicate_images_are_named_and_stay_on_one_side(tmp_path):
    for name in ("a", "b"):
        for i in range(10):
            save_pair(tmp_path / name, f"{name}{i}", value=100 + i)

    index = index_folders([tmp_path / "a", tmp_path / "b"], options=IndexOptions(hold_out=0.2))

    split = {record.image_id: record.split for record in index.records}
    assert kinds(index) == [("duplicate image", f"b{i}.png", "kept") for i in range(10)]
    assert all(split[f"a{i}"] == split[f"b{i}"] for i in range(10))
    assert sorted(split.values()).count("val") == 4


def test_training_copy_of_a_held_out_image_is_skipped(tmp_path):
    save_pair(tmp_path, "a")
    save_pair(tmp_path, "b")
    (tmp_path / "manifest.csv").write_text(
        "id,image,label,split\na,a.png,a_label.tiff,val\nb,b.png,b_label.tiff,train\n"
    )

    index = index_folders([tmp_path])

    assert [(each.image_id, each.split) for each in index.records] == [("a", "val")]
    assert kinds(index)[-1] == ("training copy of a held-out image", "b.png", "skipped")


def test_role_is_that_of_the_longest_start_then_of_the_manifest_then_the_default(tmp_path):
    names = ("set_one", "set_two", "by_manifest", "other")
    lines = ["id,image,label,role"]
    for i, name in enumerate(names):
        save_pair(tmp_path, name, value=60 + i)
        role = "" if name == "other" else "tuning"
        lines.append(f"{name},{name}.png,{name}_label.tiff,{role}")
    (tmp_path / "manifest.csv").write_text("\n".join(lines) + "\n")
    options = IndexOptions(role="public", role_of={"set": "unlabelled", "set_t": "target"})

    index = index_folders([tmp_path], options=options)

    assert {each.image_id: each.role for each in index.records} == {
        "set_one": "unlabelled",
        "set_two": "target",
        "by_manifest": "tuning",
        "other": "public",
    }


def test_start_that_fits_no_id_is_an_error(tmp_path):
    save_pair(tmp_path, "a")

    with pytest.raises(UsageError, match="starts with slip, expected prefixes of ids such as a"):
        index_folders([tmp_path], options=IndexOptions(role_of={"slip": "public"}))


def test_manifest_that_names_missing_files_skips_them(tmp_path):
    save_pair(tmp_path, "a")
    path = tmp_path / "list.csv"
    path.write_text("id,image,label\na,a.png,no.tiff\nb,b.png,a_label.tiff\n")

    index = index_folders([], [path])

    assert kinds(index) == [
        ("unreadable labels", "no.tiff", "skipped"),
        ("unreadable image", "b.png", "skipped"),
    ]


def test_command_writes_table_and_problems(tmp_path):
    for i in range(10):
        save_pair(tmp_path / "data", f"dsb_{i}", value=100 + i)
    save_image(tmp_path / "data" / "lonely.png")
    table = tmp_path / "out" / "table.csv"

    code = run(tmp_path / "data", "-o", table, "--role-of", "dsb=public", "--seed", "5")

    records = read_table(table)
    assert code == 0
    assert len(records) == 10
    assert {record.role for record in records} == {"public"}
    assert [record.split for record in records].count("val") == 1
    with (tmp_path / "out" / "table.problems.csv").open(newline="") as file:
        (problem,) = csv.DictReader(file)
    assert problem["kind"] == "image without label"
    assert problem["outcome"] == "skipped"
    assert problem["file"] == str(tmp_path / "data" / "lonely.png")
    assert problem["found"] == "no lonely_label.tiff for role target"
    assert problem["expected"]


def test_command_fails_if_nothing_is_usable_and_writes_no_table(tmp_path, caplog):
    save_image(tmp_path / "a.png")

    assert run(tmp_path, "-o", tmp_path / "table.csv") == 1

    assert "no usable image" in caplog.text

    assert "a.png: image without label: found no a_label.tiff" in caplog.text
    assert not (tmp_path / "table.csv").exists()
    assert (tmp_path / "table.problems.csv").exists()


def test_command_warns_if_no_image_is_held_out(tmp_path, caplog):
    for i in range(3):
        save_pair(tmp_path, f"cell{i}", value=100 + i)
    run(tmp_path, "-o", tmp_path / "table.csv", "--hold-out", "0")
    assert "none of the 3 labelled images is held out" in caplog.text


@pytest.mark.parametrize("arguments", [["--role-of", "a"], ["--role-of", "=public"], []])
def test_options_that_do_not_fit_are_errors(tmp_path, arguments):
    folders = [tmp_path] if arguments else []

    with pytest.raises(UsageError, match=r"expected PREFIX=ROLE|nothing to index"):
        run(*folders, "-o", tmp_path / "table.csv", *arguments)


def test_shared_cells_are_indexed_with_their_given_split(cells_dir, tmp_path):
    with (cells_dir / "manifest.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))[::10]
    lines = ["id,split,image,label"]
    for row in rows:
        files = f"{cells_dir / row['image']},{cells_dir / row['label']}"
        lines.append(f"{row['id']},{row['split']},{files}")
    (tmp_path / "list.csv").write_text("\n".join(lines))

    index = index_folders([], [tmp_path / "list.csv"])

    assert index.problems == []
    assert [
        (each.image_id, each.split, each.height, each.width, each.n_cells) for each in index.records
    ] == [
        (row["id"], row["split"], int(row["height"]), int(row["width"]), int(row["n_cells"]))
        for row in rows
    ]


def test_stack_is_refused_without_advice_that_cannot_be_followed(tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", np.ones((3, 40, 50), np.uint8), imagej=True,
                     metadata={"axes": "ZYX"})  # fmt: skip
    (problem,) = index_folders([tmp_path], (), IndexOptions(role="unlabelled")).problems
    assert "3 planes" in problem.found
    assert "training has no options such as --plane" in problem.kind.expected


def test_what_is_unusual_about_an_image_is_told(tmp_path):
    save_pair(tmp_path, "a")
    image = tifffile.imread(tmp_path / "a_label.tiff").astype(np.uint8) + 1
    (tmp_path / "a.png").unlink()
    tags = [(274, "H", 1, 3, True)]  # upside down: labels may be drawn on it turned or as stored
    tifffile.imwrite(tmp_path / "a.tif", image, extratags=tags)
    index = index_folders([tmp_path])
    assert kinds(index) == [("unusual image", "a.tif", "kept")]
    assert "orientation tag (3) is ignored" in index.problems[0].found
    assert len(index.records) == 1
