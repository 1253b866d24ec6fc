"""Images of a few cells on disk and recipes of a few steps, for tests of training."""

import hashlib
import zlib

import cv2
import numpy as np
import tifffile
from fakes import TINY, draw_ellipses

from mediar_infer.training.data.table import TrainingImage
from mediar_infer.training.stages.recipe_files import merge_values, parse_recipe

MODEL = {
    "encoder": "mit_b0",
    "encoder_channels": list(TINY.encoder_channels),
    "encoder_depths": list(TINY.depths),
    "decoder_channels": list(TINY.decoder_channels),
    "pab_channels": TINY.pab_channels,
    "drop_path": 0.1,
}
RECIPE_HEAD = """
name = "tiny"
seed = 3
[model]
encoder_channels = [8, 16, 20, 32]
encoder_depths = [1, 1, 1, 1]
decoder_channels = [16, 16, 8, 8, 8]
pab_channels = 8
"""
"""Name, seed and a tiny network of a recipe as text; its stages follow."""
STAGE = {
    "start": "random",
    "roles": ["public"],
    "steps": 5,
    "batch_size": 4,
    "crop_size": 64,
    "learning_rate": 1e-2,
    "final_learning_rate": 1e-4,
    "checkpoint_every": 2,
}
VALUES = {
    "name": "tiny",
    "seed": 3,
    "model": MODEL,
    "stages": {
        "pretrain_phase1": STAGE,
        "finetune_phase1": {
            **STAGE,
            "start": "stage:pretrain_phase1",
            "roles": ["target"],
            "memory_roles": ["public"],
            "memory_per_batch": 1,
            "ema_decay": 0.5,
        },
    },
}


def make_recipe(changes=None, stage=None):
    """The recipe above with changes to it, or to its first stage alone."""
    values = merge_values(VALUES, changes or {})
    if stage is not None:
        values["stages"] = {"pretrain_phase1": {**STAGE, **stage}}
    return parse_recipe(values, "tiny.toml")


def make_record(folder, name, role="public", split="train", modality="", source=""):
    """Write an image of some cells, and its labels if its role has some."""
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    ellipses = [(*rng.uniform(8, 72, 2), *rng.uniform(6, 12, 2)) for _ in range(5)]
    labels = draw_ellipses(80, 80, ellipses)
    image = (60 + 120 * (labels > 0) + rng.integers(0, 20, labels.shape)).astype(np.uint8)
    image_path, label_path = folder / f"{name}.png", folder / f"{name}_label.tiff"
    folder.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(image_path), image)
    has_labels = role in ("target", "public")
    if has_labels:
        tifffile.imwrite(label_path, labels)
    return TrainingImage(
        image_id=name,
        role=role,
        split=split,
        modality=modality,
        source=source,
        image_path=image_path,
        label_path=label_path if has_labels else None,
        height=80,
        width=80,
        dtype="uint8",
        n_cells=5 if has_labels else 0,
        digest=hashlib.sha256(image_path.read_bytes()).hexdigest(),
    )


def make_records(folder):
    """Three public and three target images for training, one of each held out, one for tuning."""
    return [
        *(make_record(folder, f"public{i}") for i in range(3)),
        *(make_record(folder, f"target{i}", "target") for i in range(3)),
        make_record(folder, "held_public", split="val"),
        make_record(folder, "held_target", "target", split="val"),
        make_record(folder, "tune1", "tuning"),
    ]
