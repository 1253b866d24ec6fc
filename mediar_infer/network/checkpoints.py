"""Weight files → networks: verified by checksum, read without unpickling code, strict.

The architecture is read from the shapes, so any MEDIAR-Former loads without a configuration file.
Which files are used is decided in ``weight_files``, how they are read in ``entries``.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy.typing as npt

from mediar_infer.devices import has_torch, require_torch
from mediar_infer.errors import CheckpointError, list_some
from mediar_infer.network.architecture import Architecture
from mediar_infer.network.entries import check_finite_entries, read_entries
from mediar_infer.network.graphs import (
    PUBLISHED_GRAPHS,
    Entries,
    describe_graph_entries,
    find_graph,
)
from mediar_infer.network.weight_files import (
    MANIFEST_NAME,
    MAX_MEMBERS,
    ListedWeights,
    compute_digest,
    read_weights_manifest,
    weights_dirs,
)
from mediar_infer.output_files import write_bytes

if TYPE_CHECKING:
    from torch import Tensor

    from mediar_infer.network.model import MediarFormer

_LISTED = 4
_NO_GRAPH = ", or make the graph where torch is, by 'weights graph'"
_EXPECTED = 'expected a MEDIAR-Former state dict, see "Weights" in the documentation'


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A weight file that has been read."""

    path: Path
    """Where it was read from."""
    digest: str
    """SHA-256 of the file."""
    architecture: Architecture
    """Sizes of the network, read from the shapes."""
    entries: Mapping[str, npt.NDArray[Any]]
    """Entries as stored; types that numpy lacks, such as bfloat16, as float32."""
    cell_diameter: float | None = None
    """Median diameter in pixels of the cells that it was trained on, if a manifest tells."""
    flow_threshold: float | None = None
    """Flow error above which its cells are removed by default, if a manifest tells."""

    @property
    def n_parameters(self) -> int:
        """Trainable numbers; statistics of BatchNorm are not counted."""
        return sum(
            values.size
            for name, values in self.entries.items()
            if not name.endswith(("running_mean", "running_var", "num_batches_tracked"))
        )

    @property
    def state_dict(self) -> "dict[str, Tensor]":
        """The entries as tensors that share their memory."""
        import torch

        return {name: torch.from_numpy(values) for name, values in self.entries.items()}


def read_architecture(entries: Mapping[str, npt.NDArray[Any]]) -> Architecture:
    """Read all sizes of a MEDIAR-Former from the shapes of its state dict.

    Raises:
        KeyError: if an entry from which a size is read is missing.
    """

    def count(pattern: str) -> int:
        return len({m[1] for name in entries if (m := re.match(pattern, name))})

    def reduction(stage: int) -> int:
        kernel = entries.get(f"encoder.block{stage}.0.attn.sr.weight")
        return 1 if kernel is None else int(kernel.shape[-1])

    stages = (1, 2, 3, 4)
    fc1 = entries["encoder.block1.0.mlp.fc1.weight"]
    n_blocks = count(r"decoder\.blocks\.(\d+)\.")
    return Architecture(
        encoder_channels=tuple(
            entries[f"encoder.patch_embed{stage}.proj.weight"].shape[0] for stage in stages
        ),
        depths=tuple(count(rf"encoder\.block{stage}\.(\d+)\.") for stage in stages),
        decoder_channels=tuple(
            entries[f"decoder.blocks.{i}.conv1.0.weight"].shape[0] for i in range(n_blocks)
        ),
        pab_channels=entries["decoder.center.top_conv.weight"].shape[0],
        reductions=tuple(reduction(stage) for stage in stages),
        mlp_ratio=fc1.shape[0] // fc1.shape[1],
    )


@lru_cache(maxsize=MAX_MEMBERS)
def _describe_network_entries(architecture: Architecture) -> Entries:
    import torch

    from mediar_infer.network.model import MediarFormer

    with torch.device("meta"):
        entries = MediarFormer(architecture).state_dict()
    return {name: (tuple(t.shape), t.is_floating_point()) for name, t in entries.items()}


def check_entries(checkpoint: Checkpoint, graph: Path | None = None) -> None:
    """Check that a checkpoint has the entries of its network, all of them and no others.

    Args:
        checkpoint: what was read.
        graph: exported graph of its architecture, which knows the entries too; without it the
            network is built, in torch.

    Raises:
        CheckpointError: if one is missing, unexpected, or of another shape or kind of number.
        UsageError: if torch is needed and not installed.
    """
    path, entries = checkpoint.path, checkpoint.entries
    try:
        if graph is not None:
            expected = describe_graph_entries(graph)
        else:
            require_torch(f"{path}: a network without an exported graph", advice=_NO_GRAPH)
            expected = _describe_network_entries(checkpoint.architecture)
    except (LookupError, TypeError, ValueError, ArithmeticError, RuntimeError) as error:
        raise _no_network(path, entries, error) from error
    missing = sorted(expected.keys() - entries.keys())
    unexpected = sorted(entries.keys() - expected.keys())
    reshaped = [
        f"{name} {entries[name].shape} instead of {shape}"
        for name, (shape, _) in expected.items()
        if name in entries and entries[name].shape != shape
    ]
    # Integers in place of weights come of a quantised network, whose scales are elsewhere.
    mistyped = [
        f"{name} {entries[name].dtype} instead of {'float' if is_float else 'integer'}"
        for name, (_, is_float) in expected.items()
        if name in entries and entries[name].dtype.kind not in ("f" if is_float else "iuf")
    ]
    if missing or unexpected or reshaped or mistyped:
        problems = [
            f"{len(names)} {kind} ({list_some(names, _LISTED)})"
            for names, kind in (
                (missing, "keys missing"), (unexpected, "unexpected"),
                (reshaped, "of wrong shape"), (mistyped, "of wrong type"),
            )
            if names
        ]  # fmt: skip
        raise CheckpointError(f"{path}: found {'; '.join(problems)}; {_EXPECTED}")


def _no_network(
    path: Path, entries: Mapping[str, npt.NDArray[Any]], error: Exception
) -> CheckpointError:
    return CheckpointError(
        f"{path}: found {len(entries)} entries ({list_some(entries, _LISTED)}) without {error};"
        f" {_EXPECTED}"
    )


def read_checkpoint(path: Path) -> Checkpoint:
    """Read a weight file and the sizes of its network; safetensors are read without torch.

    A file that is listed in a manifest in its folder must have the digest given there.

    Args:
        path: ``.safetensors``, or a ``.pth``/``.pt`` state dict.

    Returns:
        The entries as stored and what follows from them; ``check_entries`` is left to the caller.

    Raises:
        CheckpointError: if it is missing, damaged, swapped, not finite, or not of a MEDIAR-Former.
    """
    digest = compute_digest(path)
    listed = read_weights_manifest(path.parent).get(path.name, ListedWeights(digest))
    if listed.digest != digest:
        raise CheckpointError(
            f"{path}: found SHA-256 {digest[:16]}…, expected {listed.digest[:16]}… of"
            f" {MANIFEST_NAME}; the file is damaged or was swapped; restore it, or put your own"
            " weights into another folder"
        )
    entries = read_entries(path)
    try:
        architecture = read_architecture(entries)
    except (LookupError, TypeError, ValueError, ArithmeticError) as error:
        raise _no_network(path, entries, error) from error
    check_finite_entries(path, entries)
    return Checkpoint(
        path, digest, architecture, entries, listed.cell_diameter, listed.flow_threshold
    )


def load_checkpoint(path: Path) -> Checkpoint:
    """Read and check a weight file.

    Raises:
        CheckpointError: see ``read_checkpoint`` and ``check_entries``.
        UsageError: if torch is needed and not installed.
    """
    checkpoint = read_checkpoint(path)
    graph = None if has_torch() else find_graph_of(checkpoint)
    check_entries(checkpoint, graph)
    return checkpoint


def find_graph_of(checkpoint: Checkpoint, roi_size: int = 512) -> Path | None:
    """The exported graph of a checkpoint, if any.

    It is looked for in the ``graph_folders`` of the checkpoint.
    """
    return find_graph(checkpoint.architecture, roi_size, graph_folders(checkpoint.path))


def graph_folders(weights: Path) -> list[Path]:
    """Where the graph of a weight file is looked for, in this order.

    Beside the file, where weights are searched, and in the package, which has the graph of the
    published networks.
    """
    return [weights.parent, *weights_dirs(), PUBLISHED_GRAPHS]


def build_model(checkpoint: Checkpoint) -> "MediarFormer":
    """Build the network of a checkpoint: float32, in evaluation mode, no random initialisation."""
    import torch

    from mediar_infer.network.model import MediarFormer

    with torch.device("meta"):
        model = MediarFormer(checkpoint.architecture)
    entries = {
        name: tensor.float() if tensor.is_floating_point() else tensor
        for name, tensor in checkpoint.state_dict.items()
    }
    model.load_state_dict(entries, strict=True, assign=True)
    return model.eval().requires_grad_(False)


def save_weights(state_dict: "Mapping[str, Tensor]", path: Path) -> None:
    """Write a state dict as float16 safetensors.

    Integers stay as they are, and so does a tensor that float16 cannot hold: the variance of a
    BatchNorm may exceed 65,504, and is only a few numbers.

    Raises:
        CheckpointError: if a weight is NaN or infinite.
        OutputError: if the file cannot be written.
    """
    import torch
    from safetensors.torch import save

    compact = {}
    for name, tensor in state_dict.items():
        value = tensor.detach().cpu().contiguous()
        if value.is_floating_point():
            if not bool(torch.isfinite(value).all()):
                raise CheckpointError(f"{path}: {name} is not finite, expected numbers")
            half = value.half()
            value = half if bool(torch.isfinite(half).all()) else value.float()
        compact[name] = value
    write_bytes(path, save(compact))
