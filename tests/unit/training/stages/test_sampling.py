"""Which images a step sees."""

import pickle
from collections import Counter
from pathlib import Path

import pytest
from small_runs import make_recipe

from mediar_infer.errors import DataError, UsageError
from mediar_infer.training.data.table import TrainingImage
from mediar_infer.training.stages.sampling import (
    Stream,
    amplify,
    balance,
    build_sampler,
    read_clusters,
)


def record(name, role="target", modality="", source=""):
    path = Path(f"/{name}.png")
    return TrainingImage(
        name, role, "train", modality, source, path, path, 64, 64, "uint8", 1, name
    )


TARGETS = [record(name) for name in "abcde"]
PUBLIC = [record(f"p{i}", "public") for i in range(3)]


def stage(**changes):
    return make_recipe(stage=changes).stages[0]


def test_small_clusters_are_repeated_cyclically_and_large_ones_kept():
    clusters = {"a": 7, "b": 7, "c": 2, "d": 2, "e": 2}
    assert amplify(TARGETS, clusters, 2) == [2, 3, 4, 0, 1]
    assert amplify(TARGETS, clusters, 5) == [2, 3, 4, 2, 3, 0, 1, 0, 1, 0]
    assert amplify(TARGETS, clusters, 1) == [2, 3, 4, 0, 1]


def test_image_without_cluster_is_named():
    with pytest.raises(UsageError, match=r"no cluster for 2 images \(d, e\)"):
        amplify(TARGETS, {"a": 0, "b": 0, "c": 0}, 2)


def test_cluster_table_is_read_and_a_wrong_one_refused(tmp_path):
    path = tmp_path / "clusters.csv"
    path.write_text("image_id,cluster\na,3\nb,0\n")
    assert read_clusters(path) == {"a": 3, "b": 0}
    path.write_text("image_id,group\na,3\n")
    with pytest.raises(DataError, match="expected the columns image_id and cluster"):
        read_clusters(path)
    with pytest.raises(UsageError, match="made by 'discover'"):
        read_clusters(tmp_path / "none.csv")


def test_balanced_draws_go_with_the_inverse_root_of_the_kinds_size():
    records = [record(f"{i}", modality="phase", source="x") for i in range(4)]
    weights = balance([*records, record("rare", modality="phase", source="y")])
    assert weights[4] / weights[0] == pytest.approx(2)
    assert sum(weights) == pytest.approx(1)


def test_power_of_0_draws_kinds_alike_and_factors_change_single_sources():
    records = [record(f"{i}", modality="phase", source="x") for i in range(4)]
    records.append(record("rare", modality="phase", source="y"))
    alike = balance(records, share_power=0)
    assert sum(alike[:4]) == pytest.approx(alike[4])
    less = balance(records, share_power=0, factors={"y": 0.5, "absent": 3})
    assert sum(less[:4]) == pytest.approx(2 * less[4])


def test_factors_that_leave_nothing_to_draw_are_refused():
    records = [record("a", source="x"), record("b", source="y")]
    with pytest.raises(UsageError, match=r"source_factors: found 0 for every source.*\(x, y\)"):
        balance(records, factors={"x": 0.0, "y": 0.0})


def test_every_image_comes_once_per_epoch_in_an_order_of_its_own():
    stream = Stream((4, 5, 6, 7, 8), seed=1)
    taken = [index for step in range(5) for index in stream.take(step, 3)]
    epochs = [taken[i : i + 5] for i in (0, 5, 10)]
    assert all(sorted(epoch) == [4, 5, 6, 7, 8] for epoch in epochs)
    assert epochs[0] != epochs[1]


def test_batch_larger_than_an_epoch_is_filled_from_the_next_ones():
    assert Counter(Stream((1, 2), seed=0).take(0, 7)).most_common()[0][1] == 4


@pytest.mark.parametrize("probabilities", [(), (0.2, 0.3, 0.5)])
def test_draws_depend_on_seed_and_step_only(probabilities):
    first, again, other = (
        [Stream((0, 1, 2), seed, probabilities).take(step, 4) for step in range(9)]
        for seed in (1, 1, 2)
    )
    assert first == again
    assert first != other


def test_memory_fills_its_part_of_every_batch():
    config = stage(roles=["target"], memory_roles=["public"], memory_per_batch=1)
    sampler = build_sampler([*TARGETS, *PUBLIC], config, 5)
    for step in range(20):
        draws = sampler(step)
        assert [draw.index >= 5 for draw in draws] == [False, False, False, True]
    assert sampler.epoch_size == 5
    replayed = {sampler(step)[3].index for step in range(20)}
    assert replayed == {5, 6, 7}


def test_roles_decide_about_boundaries_and_intensities():
    config = stage(roles=["target", "public"], excludes_boundary=["public"], intensity=["target"])
    sampler = build_sampler([*TARGETS, *PUBLIC], config, 5)
    for draw in (draw for step in range(10) for draw in sampler(step)):
        assert draw.excludes_boundary == (draw.index >= 5)
        assert draw.intensity == (draw.index < 5)


def test_amplified_epoch_is_as_long_as_its_repetitions():
    config = stage(roles=["target"], sampling="amplified", amplify_to=4)
    clusters = {name: 0 if name in "abcd" else 1 for name in "abcde"}
    sampler = build_sampler([*PUBLIC, *TARGETS], config, 5, clusters)
    assert sampler.epoch_size == 8
    drawn = Counter(draw.index for step in range(2) for draw in sampler(step))
    assert drawn == {3: 1, 4: 1, 5: 1, 6: 1, 7: 4}
    with pytest.raises(UsageError, match="run 'discover' first"):
        build_sampler(TARGETS, config, 5)


def test_role_without_images_is_refused():
    with pytest.raises(UsageError, match="found no training image with one of the roles public"):
        build_sampler(TARGETS, stage(roles=["public"]), 0)


def test_sampler_is_picklable():
    sampler = build_sampler(PUBLIC, stage(), 0)
    assert pickle.loads(pickle.dumps(sampler))(3) == sampler(3)


def test_sources_of_true_colours_keep_their_intensities():
    records = [record("a", source="x"), record("b", source="y")]
    config = stage(roles=["target"], true_colour_sources=["y"])
    assert build_sampler(records, config, seed=0).intensity == (True, False)
