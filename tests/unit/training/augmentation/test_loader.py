"""Batches follow from seed, step and slot alone, however they are made."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from mediar_infer.errors import ImageReadError, UsageError
from mediar_infer.labels.flows import compute_unit_flow
from mediar_infer.training.augmentation.loader import Batch, Draw, iterate_batches
from mediar_infer.training.augmentation.settings import Augmentation
from mediar_infer.training.data.samples import Sample
from mediar_infer.training.data.table import TrainingImage
from tests.fakes import draw_cells

SIZE = 32
EVERYTHING = Augmentation(
    channel_probability=0.5,
    mixing_probability=0.5,
    inversion_probability=0.5,
    saturation_probability=0.5,
)


class FakeStore:
    """Made-up samples; index 3 has no labels, 4 is smaller than a crop, 5 cannot be read."""

    def __len__(self):
        return 6

    def __getitem__(self, index):
        if index == 5:
            raise ImageReadError("5.png: not a readable image")
        rng = np.random.default_rng(index)
        height, width = (20, 25) if index == 4 else (50 + index, 60)
        labels = draw_cells(rng, height, width)
        if index == 3:
            labels[:] = 0
        labels[labels > 0] += 40_000
        record = TrainingImage(
            image_id=f"image_{index}",
            role="unlabelled" if index == 3 else "target",
            split="train",
            modality="",
            source="",
            image_path=Path(f"{index}.png"),
            label_path=None if index == 3 else Path(f"{index}_label.tiff"),
            height=height,
            width=width,
            dtype="uint8",
            n_cells=len(np.unique(labels)) - 1,
            digest=f"{index}",
        )
        image = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
        image.flags.writeable = labels.flags.writeable = False
        return Sample(record, image, labels, has_labels=index != 3)


def draw_step(step):
    """Four crops; what is asked of them differs from slot to slot."""
    return [
        Draw(index=(step + slot) % 5, excludes_boundary=slot % 2 == 0, intensity=slot != 3)
        for slot in range(4)
    ]


def iterate(first_step=0, n_steps=6, draw=draw_step, **options):
    return iterate_batches(
        FakeStore(),
        draw,
        EVERYTHING,
        crop_size=SIZE,
        seed=7,
        first_step=first_step,
        n_steps=n_steps,
        **options,
    )


def assert_same(batches, others):
    batches, others = list(batches), list(others)
    assert len(batches) == len(others)
    for batch, other in zip(batches, others, strict=True):
        for field in dataclasses.fields(Batch):
            value, same = getattr(batch, field.name), getattr(other, field.name)
            if isinstance(value, torch.Tensor):
                assert torch.equal(value, same), field.name
            else:
                assert value == same


def join(parts):
    return Batch(
        **{
            field.name: torch.cat([getattr(part, field.name) for part in parts])
            for field in dataclasses.fields(Batch)
            if field.name != "image_ids"
        },
        image_ids=sum((part.image_ids for part in parts), ()),
    )


def test_batch_has_the_shapes_and_types_that_it_names():
    batch = next(iterate())
    assert batch.inputs.shape == (4, 3, SIZE, SIZE)
    assert batch.foreground.shape == (4, SIZE, SIZE)
    assert batch.unit_flow.shape == (4, 2, SIZE, SIZE)
    for tensor in (batch.inputs, batch.foreground, batch.unit_flow):
        assert tensor.dtype == torch.float32
        assert tensor.is_contiguous()
    assert batch.image_ids == ("image_0", "image_1", "image_2", "image_3")
    assert batch.has_labels.tolist() == [True, True, True, False]


def test_same_seed_gives_the_same_batches_and_another_seed_does_not():
    assert_same(iterate(), iterate())
    batches = iterate_batches(
        FakeStore(), draw_step, EVERYTHING, crop_size=SIZE, seed=8, first_step=0, n_steps=1
    )
    assert not torch.equal(next(batches).inputs, next(iterate()).inputs)


def test_resumed_run_gets_the_batches_of_an_uninterrupted_one():
    assert_same(list(iterate())[4:], iterate(first_step=4, n_steps=2))


def test_steps_and_slots_differ_even_on_the_same_image():
    inputs = torch.cat([b.inputs for b in iterate(0, 3, lambda _: [Draw(0, False, True)] * 3)])
    assert len({tensor.numpy().tobytes() for tensor in inputs}) == 9


def test_parts_of_two_processes_are_the_batch_of_one():
    parts = zip(*(iterate(rank=rank, world_size=2) for rank in (0, 1)), strict=True)
    assert_same((join(both) for both in parts), iterate())


def test_worker_processes_give_the_batches_of_the_thread():
    assert_same(iterate(n_workers=2), iterate())


def test_loading_leaves_torchs_own_random_numbers_alone():
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    list(iterate(n_steps=1))
    assert torch.equal(torch.rand(1), expected)


def test_targets_are_the_flow_of_the_crop_that_is_shown():
    # Without any change, an image of the crop's size is its own crop.
    class Whole(FakeStore):
        def __getitem__(self, index):
            sample = super().__getitem__(index)
            return dataclasses.replace(
                sample, image=sample.image[:SIZE, :SIZE], labels=sample.labels[:SIZE, :SIZE]
            )

    never = Augmentation(zoom_probability=0, flip_probability=0, rotation_probability=0)
    batch = next(
        iterate_batches(
            Whole(),
            lambda _: [Draw(0, False, False), Draw(1, False, False)],
            never,
            crop_size=SIZE,
            seed=0,
            first_step=0,
            n_steps=1,
        )
    )
    for slot in (0, 1):
        sample = Whole()[slot]
        np.testing.assert_array_equal(batch.foreground[slot], sample.labels > 0)
        np.testing.assert_array_equal(batch.unit_flow[slot], compute_unit_flow(sample.labels))
        np.testing.assert_allclose(
            batch.inputs[slot], np.moveaxis(sample.image / 255, 2, 0), atol=1e-6
        )


def test_flow_is_made_after_the_changes():
    # Flow vectors are of unit length inside the changed cells and nowhere else.
    for batch in iterate(n_steps=3):
        length = torch.linalg.vector_norm(batch.unit_flow, dim=1)
        inside = batch.foreground > 0
        assert not length[~inside].any()
        assert (length[inside] > 0.99).float().mean() > 0.9


def test_image_without_cells_has_empty_targets():
    batch = next(iterate(draw=lambda _: [Draw(3, True, True)]))
    assert not batch.foreground.any()
    assert not batch.unit_flow.any()
    assert batch.has_labels.tolist() == [False]


def test_crops_that_cannot_be_shared_out_are_refused():
    with pytest.raises(UsageError, match=r"step 0 has 4 crops for 3 processes.*batch size"):
        next(iterate(world_size=3))


@pytest.mark.parametrize("n_workers", [0, 1])
def test_unreadable_image_is_the_error_that_the_store_raised(n_workers):
    with pytest.raises(ImageReadError, match=r"^5\.png: not a readable image$"):
        list(iterate(draw=lambda _: [Draw(5, False, True)], n_workers=n_workers))


def test_loading_can_be_left_early():
    batches = iterate(n_steps=1000)
    next(batches)
    batches.close()
