"""The network that a stage starts from: random, an encoder's, an earlier stage's, or a file's."""

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from mediar_infer.errors import CheckpointError, UsageError, list_some
from mediar_infer.network.architecture import Architecture
from mediar_infer.network.checkpoints import load_checkpoint
from mediar_infer.network.model import MediarFormer
from mediar_infer.network.weight_files import weights_dirs
from mediar_infer.training.networks.build import ReconstructingFormer, build_network
from mediar_infer.training.networks.encoders import load_encoder
from mediar_infer.training.networks.initialise import initialise_weights
from mediar_infer.training.stages.recipe import Recipe
from mediar_infer.training.stages.run_folder import StageFolder
from mediar_infer.training.stages.stage_config import StageConfig

_LISTED = 4
"""Names that an error lists."""


def find_stage_weights(run_path: Path, name: str) -> Path:
    """Find the result of a stage.

    Raises:
        UsageError: if it is not finished.
    """
    folder = StageFolder(run_path / name)
    if not folder.summary_path.exists():
        raise UsageError(
            f"{folder.path}: found no finished stage {name!r}, expected one; train it first"
        )
    return folder.weights_path


def find_start(start: str, run_path: Path) -> Path | None:
    """Find the weight file that a stage starts from; None for ``random`` and ``encoder``.

    Raises:
        CheckpointError: if a named file does not exist.
        UsageError: if a named stage is not finished.
    """
    kind, _, name = start.partition(":")
    if kind == "stage":
        return find_stage_weights(run_path, name)
    if kind != "weights":
        return None
    candidates = [Path(name), *(folder / name for folder in weights_dirs())]
    for path in candidates:
        if path.is_file():
            return path
    raise CheckpointError(
        f"{name}: found no such weight file, expected it in {', '.join(map(str, candidates))}"
    )


def build_start(recipe: Recipe, config: StageConfig, run_path: Path) -> nn.Module:
    """Build the network of a stage with its start weights.

    Args:
        recipe: gives architecture and seed.
        config: settings of the stage.
        run_path: folder of the run, for ``stage:NAME``.

    Raises:
        CheckpointError: if the start weights are missing or of another architecture.
    """
    torch.manual_seed(recipe.seed)
    model = build_network(
        recipe.model.network,
        recipe.model.architecture,
        crop_size=config.crop_size,
        drop_path=recipe.model.drop_path,
    )
    initialise_weights(model)
    if config.start == "encoder":
        load_encoder(model, recipe.model.encoder, recipe.model.encoder_weights)
    path = find_start(config.start, run_path)
    if path is not None:
        _load(model, path)
    return model


def _load(model: nn.Module, path: Path) -> None:
    if isinstance(model, ReconstructingFormer):
        # Its additional head is new: files of plain networks lack it.
        entries = model.additional_entries() | load_file(path)
    elif isinstance(model, MediarFormer):
        checkpoint = load_checkpoint(path)
        _check_architecture(path, checkpoint.architecture, model.architecture)
        entries = checkpoint.state_dict
    else:
        entries = load_file(path)
    load_entries(model, entries, path)


def _check_architecture(path: Path, found: Architecture, expected: Architecture) -> None:
    if found != expected:
        asked = asdict(expected)
        differences = [
            f"{name} {value}, not {asked[name]}"
            for name, value in asdict(found).items()
            if value != asked[name]
        ]
        raise CheckpointError(
            f"{path}: found another architecture ({'; '.join(differences)}), expected that of the"
            " recipe's [model]; change it, or start from other weights"
        )


def load_entries(model: nn.Module, entries: Mapping[str, Tensor], path: Path) -> None:
    """Load a state dict into a network, strictly.

    Raises:
        CheckpointError: if names or shapes differ.
    """
    expected = model.state_dict()
    wrong = sorted(expected.keys() ^ entries.keys()) or [
        name for name, value in expected.items() if entries[name].shape != value.shape
    ]
    if wrong:
        raise CheckpointError(
            f"{path}: found {len(wrong)} entries that are missing, unexpected or of another shape"
            f" ({list_some(wrong, _LISTED)}), expected the weights of the recipe's network; change"
            " [model], or start from other weights"
        )
    model.load_state_dict(dict(entries))
