"""The two models of the paper, scaled to a small network, few images and a CPU.

The paper's two models differ in what they were pretrained on; so do ours. Two adaptations:

- *Fine-tuning draws from all images*, balanced over modalities, for both models. The paper
  fine-tunes on target images with one memory (public) image per batch; here modalities of the
  public sources are part of the test, so they must not fade to one image in nine.
- *Random start weights* and few, fast steps instead of an ImageNet encoder and hundreds of epochs.
- *A third stage, broadening*, adds generated images and wide changes of colour and scale: 636
  images of ten sources hold few stains and sizes, and on others the flow came out too weak.
- *A fourth, short one, settling*, keeps the generated images and takes the colours as they are:
  labels may depend on them (in stained blood only leukocytes are labelled).
- *The result is a blend* of the weights after fine-tuning and at the end, which knows what each
  of them knows ("WiSE-FT", Wortsman et al. 2022).
"""

import logging
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file

from mediar_infer.architecture import ENCODERS, Architecture
from mediar_infer.checkpoints import save_weights
from mediar_infer.errors import UsageError
from mediar_infer.model import MediarFormer
from mediar_infer.training.data import Sample
from mediar_infer.training.initialise import initialise_weights
from mediar_infer.training.loop import (
    BatchSource,
    RunFolder,
    StageConfig,
    TrainingState,
    WeightAverage,
    build_optimizer,
    train_stage,
)
from mediar_infer.training.transforms import Augmentation

logger = logging.getLogger(__name__)

SMALL = Architecture(*ENCODERS["mit_b0"], (128, 64, 32, 32, 16), 32)
"""Architecture of both small models."""

_DROP_PATH = 0.05


_BROAD = Augmentation(zoom_range=(0.4, 2.2), inversion_probability=0.1, mixing_probability=0.25)

_SETTLING = Augmentation(zoom_range=(0.5, 1.8))


@dataclass(frozen=True, slots=True)
class Recipe:
    """One model: its seed and its stages in order."""

    name: str
    """Name of the run's folder."""
    seed: int
    """Start weights, batches and stochastic depth follow from it."""
    stages: tuple[StageConfig, ...]
    """Trained one after the other; each has its own optimiser and learning-rate schedule."""
    blend_from: str = ""
    """Stage whose result is blended into the last one's; none without a name."""
    blend_share: float = 1.0
    """Share of the last stage in the blend."""


def build_recipe(
    name: str,
    *,
    pretraining_steps: int = 600,
    finetuning_steps: int = 1400,
    broadening_steps: int = 2300,
    settling_steps: int = 400,
) -> Recipe:
    """Build a recipe by name.

    Args:
        name: ``from_phase1`` (pretrained on public images) or ``from_phase2`` (on public and target
            images together, other seed).
        pretraining_steps: steps of the first stage.
        finetuning_steps: steps of the second stage.
        broadening_steps: steps of the third stage.
        settling_steps: steps of the fourth stage.

    Raises:
        KeyError: if there is no such recipe.
    """
    roles, seed = {
        "from_phase1": (("public",), 19940817),
        "from_phase2": (("public", "target"), 19940818),
    }[name]
    pretraining = StageConfig(
        name="pretraining",
        roles=roles,
        n_steps=pretraining_steps,
        learning_rate=1e-3,
        final_learning_rate=1e-4,
    )
    finetuning = StageConfig(
        name="finetuning",
        roles=("public", "target"),
        n_steps=finetuning_steps,
        learning_rate=7e-4,
        final_learning_rate=1e-6,
    )
    broadening = StageConfig(
        name="broadening",
        roles=("public", "target", "generated"),
        n_steps=broadening_steps,
        learning_rate=6e-4,
        final_learning_rate=1e-6,
        augmentation=_BROAD,
    )
    settling = StageConfig(
        name="settling",
        roles=("public", "target", "generated"),
        n_steps=settling_steps,
        learning_rate=2e-4,
        final_learning_rate=1e-6,
        n_warmup_steps=50,
        average_from_step=50,
        augmentation=_SETTLING,
    )
    stages = (pretraining, finetuning, broadening, settling)
    return Recipe(name, seed, stages, blend_from="finetuning", blend_share=0.65)


RECIPES = ("from_phase1", "from_phase2")
"""Names that :func:`build_recipe` knows."""


def run_recipe(
    recipe: Recipe,
    samples: Sequence[Sample],
    run_path: Path,
    *,
    architecture: Architecture = SMALL,
    resume: bool = False,
    device: torch.device | str = "cpu",
    checkpoint_every: int = 200,
) -> Path:
    """Train one model through all its stages.

    Args:
        recipe: what to do.
        samples: training images; each stage takes those of its roles.
        run_path: folder of the run, made if absent.
        architecture: sizes of the network.
        resume: go on from the folder's checkpoint.
        device: where to train.
        checkpoint_every: steps between checkpoints.

    Returns:
        Path of the float16 weights.

    Raises:
        UsageError: if the folder holds another run, or a stage finds no image of its roles.
        TrainingError: if the loss or the gradient becomes NaN or infinite.
    """
    run_path.mkdir(parents=True, exist_ok=True)
    folder = RunFolder(run_path, {"architecture": asdict(architecture), **asdict(recipe)})
    torch.manual_seed(recipe.seed)
    model = MediarFormer(architecture, drop_path=_DROP_PATH)
    initialise_weights(model)
    # nn.Module.to is typed without a memory format together with a device
    model = model.to(device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    state = TrainingState(model, WeightAverage(model), build_optimizer(model, recipe.stages[0]))
    if resume:
        restore(state, folder, recipe)
    elif folder.checkpoint_path.exists():
        raise UsageError(
            f"{run_path}: holds a checkpoint of an earlier run; resume it or choose another folder"
        )
    for index, config in enumerate(recipe.stages):
        if index < state.stage_index:
            continue
        if index > state.stage_index:
            state.stage_index, state.step = index, 0
            state.optimizer = build_optimizer(model, config)
        chosen = [sample for sample in samples if sample.record.role in config.roles]
        if not chosen:
            raise UsageError(f"stage {config.name}: no image has one of the roles {config.roles}")
        logger.info("%s, %s: %d images", recipe.name, config.name, len(chosen))
        source = BatchSource(chosen, config, recipe.seed + 1000 * index)
        train_stage(state, source, folder, checkpoint_every=checkpoint_every)
        shutil.copyfile(folder.weights_path, folder.stage_path(config.name))
    if recipe.blend_from:
        last = folder.stage_path(recipe.stages[-1].name)
        parts = (folder.stage_path(recipe.blend_from), last)
        save_weights(blend_weights(*parts, recipe.blend_share), folder.weights_path)
    return folder.weights_path


def blend_weights(first: Path, second: Path, share: float) -> dict[str, torch.Tensor]:
    """Average two weight files of one architecture, entry by entry.

    Args:
        first: safetensors with a share of ``1 - share``; integers are taken from the other.
        second: safetensors with the rest.
        share: of the second file, in [0, 1].

    Returns:
        The entries in float32.
    """
    one, two = load_file(first), load_file(second)
    return {
        name: torch.lerp(one[name].float(), value.float(), share)
        if value.is_floating_point()
        else value
        for name, value in two.items()
    }


def restore(state: TrainingState, folder: RunFolder, recipe: Recipe) -> None:
    """Fill the state from the folder's checkpoint.

    Args:
        state: modified.
        folder: of the run.
        recipe: must be the one that made the checkpoint.
    """
    content = folder.load()
    state.stage_index, state.step = content["stage_index"], content["step"]
    state.model.load_state_dict(content["model"])
    for name, value in content["average"].items():
        state.average.state[name].copy_(value)
    state.optimizer = build_optimizer(state.model, recipe.stages[state.stage_index])
    state.optimizer.load_state_dict(content["optimizer"])
    logger.info("resumed at stage %d, step %d", state.stage_index, state.step)
