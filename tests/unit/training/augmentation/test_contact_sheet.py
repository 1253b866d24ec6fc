"""The sheet shows every augmentation, and the command writes it."""

import argparse
from dataclasses import fields

import cv2
import numpy as np
import pytest
import tifffile

from mediar_infer.errors import UsageError
from mediar_infer.training.augmentation.contact_sheet import draw_text, join_tiles, list_changes
from mediar_infer.training.augmentation.settings import Augmentation
from mediar_infer.training.commands import index as index_command
from mediar_infer.training.commands import sheet as sheet_command
from tests.fakes import draw_cells


def run(command, *arguments):
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    return command.run(parser.parse_args([str(argument) for argument in arguments]))


@pytest.fixture
def table(tmp_path, rng):
    for number in range(3):
        labels = draw_cells(rng, 50, 60)
        image = rng.integers(0, 256, (50, 60, 3), dtype=np.uint8)
        cv2.imwrite(str(tmp_path / f"cells_{number}.png"), image)
        tifffile.imwrite(tmp_path / f"cells_{number}_label.tiff", labels.astype(np.uint16))
    assert run(index_command, tmp_path, "-o", tmp_path / "table.csv") == 0
    return tmp_path / "table.csv"


def test_every_augmentation_has_a_row_of_its_own():
    changes = list_changes(Augmentation())
    alone = [
        field.name
        for change in changes[:-2]
        for field in fields(Augmentation)
        if field.name.endswith("_probability") and getattr(change.augmentation, field.name) == 1
    ]
    every = [f.name for f in fields(Augmentation) if f.name.endswith("_probability")]
    assert len(alone) == len(changes) - 2
    assert set(every) - set(alone) == {
        "plain_zoom_probability",
        "mirror_probability",
        "saturation_probability",
    }
    assert changes[-2].excludes_boundary
    assert changes[-1].augmentation == Augmentation()


def test_rows_show_the_values_of_the_augmentation():
    lines = {change.lines[0]: change.lines[1:] for change in list_changes(Augmentation())}
    assert lines["contrast"] == ("probability 0.25", "range (0.0, 2.0)")


def test_sheet_command_writes_a_picture_of_every_row(table, tmp_path):
    output = tmp_path / "sheet.png"
    assert run(sheet_command, table, "-o", output, "--images", 2, "--crop", 64) == 0
    sheet = cv2.imread(str(output))
    n_rows = len(list_changes(Augmentation()))
    assert sheet.shape == (16 + 4 + n_rows * 68, 190 + 4 + 4 * 68, 3)


def test_sheet_of_named_images(table, tmp_path):
    output = tmp_path / "sheet.png"
    assert run(sheet_command, table, "-o", output, "--id", "cells_1", "--crop", 32) == 0
    assert cv2.imread(str(output)).shape[1] == 190 + 4 + 2 * 36


def test_unknown_image_is_named(table, tmp_path):
    with pytest.raises(UsageError, match=r"table\.csv: found no labelled image nowhere, expected"):
        run(sheet_command, table, "-o", tmp_path / "sheet.png", "--id", "nowhere")


def test_joined_tiles_keep_their_places():
    tiles = [[np.full((2, 3, 3), value, np.uint8) for value in row] for row in ((1, 2), (3, 4))]
    joined = join_tiles(tiles)
    assert joined[:2, :3].min() == 1
    assert joined[:2, 7:10].min() == 2
    assert joined[6:8, 7:10].min() == 4


def test_text_is_drawn_inside_its_tile():
    tile = draw_text(("one line that is longer than its tile", "two"), 40, 50)
    assert tile.shape == (40, 50, 3)
    assert tile.any()
