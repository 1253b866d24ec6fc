from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from mediar_infer.errors import UsageError
from mediar_infer.training.data.splits import assign_splits, find_leaks
from mediar_infer.training.data.table import TrainingImage


def make_record(name, source="", modality="", n_cells=5, digest=None, role="target"):
    labels = Path(f"/data/{name}_label.tiff") if role in ("target", "public") else None
    return TrainingImage(
        image_id=name,
        role=role,
        split="train",
        modality=modality,
        source=source,
        image_path=Path(f"/data/{name}.png"),
        label_path=labels,
        height=8,
        width=8,
        dtype="uint8",
        n_cells=n_cells,
        digest=digest or name,
    )


def held_out(records):
    return {record.image_id for record in records if record.split == "val"}


def test_every_stratum_gives_its_share():
    records = [
        make_record(f"{source}{i}", source=source)
        for source, number in (("common", 70), ("rare", 20), ("rarest", 10))
        for i in range(number)
    ]

    chosen = held_out(assign_splits(records, {}, hold_out=0.1, seed=1))

    assert Counter(name.rstrip("0123456789") for name in chosen) == {
        "common": 7,
        "rare": 2,
        "rarest": 1,
    }


def test_small_strata_together_give_the_share_of_the_whole():
    records = [make_record(f"{k}-{i}", source=f"set{k}") for k in range(10) for i in range(3)]

    assert len(held_out(assign_splits(records, {}, hold_out=0.1, seed=1))) == 3


def test_no_stratum_is_held_out_entirely():
    records = [make_record(f"{k}", source=f"set{k}") for k in range(20)]

    assert held_out(assign_splits(records, {}, hold_out=0.5, seed=1)) == set()


def test_unknown_images_are_stratified_by_their_number_of_cells():
    records = [make_record(f"{n:03d}", n_cells=n) for n in range(100)]

    chosen = sorted(held_out(assign_splits(records, {}, hold_out=0.2, seed=1)))

    assert [sum(25 * q <= int(name) < 25 * q + 25 for name in chosen) for q in range(4)] == [5] * 4


def test_roles_are_strata_of_their_own():
    records = [make_record(f"p{i}", "set", role="public") for i in range(10)]
    records += [make_record(f"t{i}", "set") for i in range(10)]

    chosen = held_out(assign_splits(records, {}, hold_out=0.2, seed=1))

    assert sorted(name[0] for name in chosen) == ["p", "p", "t", "t"]


def test_draw_depends_on_the_seed_and_not_on_the_order():
    records = [make_record(f"{i:02d}", "set") for i in range(50)]

    first = held_out(assign_splits(records, {}, hold_out=0.1, seed=1))

    assert held_out(assign_splits(records[::-1], {}, hold_out=0.1, seed=1)) == first
    assert held_out(assign_splits(records, {}, hold_out=0.1, seed=2)) != first


def test_exact_copies_are_on_one_side():
    records = [make_record(f"{i:02d}", "set", digest=f"{i // 2}") for i in range(40)]

    for seed in range(5):
        split = assign_splits(records, {}, hold_out=0.2, seed=seed)
        assert all(a.split == b.split for a, b in zip(split[::2], split[1::2], strict=True))
        assert held_out(split)


def test_given_splits_are_kept_and_their_copies_follow():
    records = [make_record(name, "set") for name in "abcdefghij"]
    records.append(make_record("copy", "set", digest="a"))

    split = assign_splits(records, {"a": "val", "b": "train"}, hold_out=0, seed=1)

    assert held_out(split) == {"a", "copy"}


def test_images_without_labels_stay_in_train():
    records = [make_record(f"{i}", role="unlabelled") for i in range(10)]

    split = assign_splits(records, {"0": "val"}, hold_out=0.5, seed=1)

    assert held_out(split) == set()


def test_training_copies_of_held_out_images_are_found():
    train, val = make_record("a", digest="same"), make_record("b", digest="same")
    val = replace(val, split="val")
    unlabelled = make_record("c", digest="same", role="unlabelled")

    assert find_leaks([train, val, unlabelled, make_record("d")]) == [
        (train, val),
        (unlabelled, val),
    ]


@pytest.mark.parametrize("share", [-0.1, 1, float("nan")])
def test_share_outside_its_range_is_an_error(share):
    with pytest.raises(UsageError, match="expected at least 0 and less than 1"):
        assign_splits([], {}, hold_out=share, seed=1)
