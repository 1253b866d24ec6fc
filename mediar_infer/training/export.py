"""Trained weights → what the engine loads: float16 file, manifest, graph; and a card to fill in."""

import json
import logging
import math
import re
from pathlib import Path
from statistics import fmean
from typing import Any, Final

from mediar_infer.config import EngineConfig
from mediar_infer.errors import UsageError
from mediar_infer.network.checkpoints import Checkpoint, load_checkpoint, save_weights
from mediar_infer.network.graphs import graph_name
from mediar_infer.network.weight_files import (
    ListedWeights,
    check_targets,
    compute_digest,
    read_weights_manifest,
    write_weights_manifest,
)
from mediar_infer.output_files import write_bytes

logger = logging.getLogger(__name__)

_SUFFIX: Final = ".safetensors"

_TRAINING: Final = "**Training.**"
"""Where the part of a card begins that is made and that people may write on."""
_BY_HAND: Final = "**Data.**"
"""Where the part of a card begins that people write."""
_MADE_TRAINING: Final = re.compile(
    r"To\s+be\s+written;\s+made\s+from\s+`[^`]*`\."
    r"|Stage\s+`[^`]*`\s+from\s+`[^`]*`:.*?\bseed\s+\d+\."
    r"(\s+Best\s+validation.*?\bat\s+step\s+\d+\.)?",
    re.DOTALL,
)
"""What ``_describe_training`` says, however it was wrapped since."""

_CARD: Final = """\
# Model card: {name}

**Architecture.** {encoder} encoder, decoder {decoder}, PAB {pab}: {n_parameters:.2f} M parameters,
float16. SHA-256 `{digest}`.

**Training.** {training}

**Data.** To be written: sources, licences, number of images and cells, what was held out.

**Quality.** To be written: F1 on held-out images per modality, by `select` or `evaluate`.

**Known failures.** To be written: look at the worst images.
"""


def check_output(output: Path, *, replaces: bool) -> None:
    """Refuse an output before anything is computed.

    Raises:
        UsageError: if its name does not end in ``.safetensors``.
        CheckpointError: if it exists and is not to be replaced, or if the manifest of its folder
            would list more models than an ensemble has.
    """
    if output.suffix != _SUFFIX:
        raise UsageError(f"{output}: found suffix {output.suffix!r}, expected NAME{_SUFFIX}")
    advice = "add --replace, or choose another name"
    listed = read_weights_manifest(output.parent)
    check_targets([output], [output], listed, replaces=replaces, advice=advice)


def export_weights(
    source: Path,
    output: Path,
    *,
    replaces: bool = False,
    has_graph: bool = True,
    flow_threshold: float | None = None,
) -> list[Path]:
    """Write a weight file for the engine.

    Args:
        source: weights of a stage, or any file that the engine loads.
        output: ``NAME.safetensors``; ``manifest.json`` of its folder gains its digest and, if the
            run tells, the typical size of the training cells.
        replaces: overwrite a file of this name.
        has_graph: also export the graph for OpenVINO, if the folder has none of this
            architecture; takes about half a minute.
        flow_threshold: flow error above which ``predict`` removes cells of these weights unless it
            is told otherwise, to be noted in the manifest; by default that of a listed source.

    Returns:
        The files that were written. Of a card that is there already, what people have written into
        it stays.

    Raises:
        CheckpointError: if the source holds no MEDIAR-Former, or the output is refused.
        UsageError: if the output's name does not end in ``.safetensors``, or a threshold is none.
        OutputError: if a file cannot be written.
    """
    check_output(output, replaces=replaces)
    if flow_threshold is not None and not 0 <= flow_threshold < math.inf:
        raise UsageError(
            f"found flow threshold {flow_threshold}, expected a finite number, 0 or more; weights"
            " cannot state that all cells are kept: leave it out, and use predict --flow-threshold"
            " none"
        )
    checkpoint = load_checkpoint(source)
    save_weights(checkpoint.state_dict, output)
    digest = compute_digest(output)
    listed = ListedWeights(
        digest,
        _find_cell_diameter(checkpoint),
        flow_threshold=checkpoint.flow_threshold if flow_threshold is None else flow_threshold,
    )
    before = read_weights_manifest(output.parent)
    write_weights_manifest(output.parent, before | {output.name: listed})
    if flow_threshold is None and output.name in before:
        _warn_of_other_threshold(output, before[output.name].flow_threshold, listed.flow_threshold)
    card = output.with_suffix(".md")
    text = _keep_by_hand(card, _describe(checkpoint, output, digest))
    write_bytes(card, text.encode("utf-8", "surrogateescape"))
    written = [output, output.parent / "manifest.json", card]
    roi_size = EngineConfig().roi_size
    graph = output.parent / graph_name(checkpoint.architecture, roi_size)
    if has_graph and not graph.exists():
        from mediar_infer.network.backends.openvino_export import export_graph

        written.append(export_graph(checkpoint.architecture, roi_size, output.parent))
    logger.info("%s: %.1f MiB, SHA-256 %s", output, output.stat().st_size / 2**20, digest)
    return written


def _warn_of_other_threshold(output: Path, before: float | None, now: float | None) -> None:
    if before is not None and before != now:
        logger.warning(
            "%s: the weights that were replaced stated flow threshold %g, the new ones state %s;"
            " if it is to stay, export again with --flow-threshold %g",
            *(output, before, "none" if now is None else f"{now:g}", before),
        )


def _describe(checkpoint: Checkpoint, output: Path, digest: str) -> str:
    architecture = checkpoint.architecture
    return _CARD.format(
        name=output.stem,
        encoder=architecture.name,
        decoder=architecture.decoder_channels,
        pab=architecture.pab_channels,
        n_parameters=checkpoint.n_parameters / 1e6,
        digest=digest,
        training=_describe_training(checkpoint.path),
    )


def _keep_by_hand(path: Path, card: str) -> str:
    """Card with what people have written into the one that it replaces."""
    try:
        before = path.read_text(encoding="utf-8", errors="surrogateescape")
    except FileNotFoundError:
        return card
    made, mark, by_hand = card.partition(_BY_HAND)
    told, found, kept = before.partition(_BY_HAND)
    if not found:
        kept = f"{by_hand}\n## Before\n\n{before}"
    training = _read_training_by_hand(told) if found else ""
    if kept != by_hand or training:
        logger.warning(
            "%s: kept what was written into it by hand; check whether it holds for the new weights",
            path,
        )
    if training:
        head, start, described = made.partition(_TRAINING)
        is_open = described.strip().startswith("To be written")
        paragraphs = [training] if is_open else [described.strip(), training]
        made = f"{head}{start} " + "\n\n".join(paragraphs) + "\n\n"
    return made + mark + kept


def _read_training_by_hand(told: str) -> str:
    """What people have written about the training, in place of what was made or behind it."""
    _, _, described = told.partition(_TRAINING)
    described = described.strip()
    match = _MADE_TRAINING.match(described)
    return described if match is None else described[match.end() :].strip()


def _describe_training(source: Path) -> str:
    """What the summary beside the weights of a stage tells."""
    path = source.parent / "summary.json"
    if not path.is_file():
        return f"To be written; made from `{source.name}`."
    summary: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    stage = summary["description"]["stage"]
    told = (
        f"Stage `{stage['name']}` from `{stage['start']}`: {summary['n_steps']} steps of"
        f" {stage['batch_size']} crops of {stage['crop_size']} pixels, learning rate"
        f" {stage['learning_rate']:g} to {stage['final_learning_rate']:g}, {stage['precision']},"
        f" seed {summary['description']['seed']}."
    )
    if summary["best_value"] is not None:
        told += f" Best validation ({stage['select']}): {summary['best_value']:.4f} at step"
        told += f" {summary['best_step']}."
    return told


def _find_cell_diameter(checkpoint: Checkpoint) -> float | None:
    """Typical size of the cells of a stage, of the stages of a blend, or of a listed file."""
    folder = checkpoint.path.parent
    for paths in ([folder / "summary.json"], _find_blended(checkpoint.path)):
        found = [_read_cell_diameter(path) for path in paths if path.is_file()]
        known = [diameter for diameter in found if diameter is not None]
        if known:
            return fmean(known)
    return checkpoint.cell_diameter


def _find_blended(path: Path) -> list[Path]:
    """Summaries of the two stages of a blend of a run; of all its stages for other files there."""
    try:
        described = json.loads((path.parent / "recipe.json").read_text(encoding="utf-8"))
    except FileNotFoundError:
        described = {"recipe": {"blends": []}}
    for blend in described["recipe"]["blends"]:
        if blend["name"] == path.stem:
            return [path.parent / blend[key] / "summary.json" for key in ("first", "second")]
    return sorted(path.parent.glob("*/summary.json"))


def _read_cell_diameter(summary: Path) -> float | None:
    diameter = json.loads(summary.read_text(encoding="utf-8")).get("cell_diameter")
    return None if diameter is None else float(diameter)
