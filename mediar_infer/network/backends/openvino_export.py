"""The network as a graph for OpenVINO, exported once per architecture, without weights.

Each weight is an input of the graph; those of a checkpoint replace the inputs when it is loaded. So
there is one copy of the weights, checked by its checksum, and one graph serves both members of the
ensemble. All shapes in it are fixed.
"""

import warnings
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mediar_infer.network.architecture import Architecture
from mediar_infer.network.graphs import UNUSED_ENTRY, WINDOW_INPUT, graph_name
from mediar_infer.network.model import MediarFormer


def _upsampling_kernel(weight: Tensor) -> Tensor:
    """Kernel of the transposed convolution that equals upsampling followed by a convolution.

    Of the 3×3 pixels that a convolution sees after nearest-neighbour upsampling by two, only 2×2
    differ. A transposed convolution of stride 2 computes with those: four products instead of nine.

    Args:
        weight: ``(out, in, 3, 3)``.

    Returns:
        ``(in, out, 4, 4)``, for stride 2 and padding 1.
    """
    rows = weight.transpose(0, 1).flip(2, 3)
    columns = F.pad(rows, (0, 0, 0, 1)) + F.pad(rows, (0, 0, 1, 0))
    return F.pad(columns, (0, 1)) + F.pad(columns, (1, 0))


def _tensor(layer: nn.Module, name: str) -> Tensor:
    """Parameter or buffer of a layer, a plain tensor during the export."""
    value = getattr(layer, name)
    assert isinstance(value, Tensor)
    return value


def _upsample(block: nn.Module, x: Tensor) -> Tensor:
    conv, norm, activation = block.get_submodule("conv1").children()
    kernel = _upsampling_kernel(_tensor(conv, "weight"))
    upsampled = F.conv_transpose2d(x, kernel, stride=2, padding=1)
    result: Tensor = block.get_submodule("conv2")(activation(norm(upsampled)))
    return result


def _fuse(block: nn.Module, x: Tensor, skip: Tensor) -> Tensor:
    """A fusion block without its upsampled copy: weighted by channel, then upsampled in conv1."""
    x = block.get_submodule("hl_conv")(x)
    x = x * (block.get_submodule("SE_hl")(x) + block.get_submodule("SE_ll")(skip))
    conv, norm, activation = block.get_submodule("conv1").children()
    weight, n_channels = _tensor(conv, "weight"), x.shape[1]
    of_x, of_skip = weight[:, :n_channels], weight[:, n_channels:]
    upsampled = F.conv_transpose2d(x, _upsampling_kernel(of_x), stride=2, padding=1)
    fused = upsampled + F.conv2d(skip, of_skip, padding=1)
    result: Tensor = block.get_submodule("conv2")(activation(norm(fused)))
    return result


def _apply_heads(model: MediarFormer, decoded: Tensor) -> Tensor:
    """Both heads as one: narrow convolutions use only a small part of a vector unit."""
    flow, cellprob = (list(head.children()) for head in (model.gradflow_head, model.cellprob_head))

    def both(layer: int, name: str) -> Tensor:
        return torch.cat([_tensor(flow[layer], name), _tensor(cellprob[layer], name)])

    hidden = F.mish(F.conv2d(decoded, both(0, "weight"), both(0, "bias"), padding=1))
    mean, variance = both(2, "running_mean"), both(2, "running_var")
    hidden = F.batch_norm(hidden, mean, variance, both(2, "weight"), both(2, "bias"))
    to_flow, to_cellprob = _tensor(flow[3], "weight"), _tensor(cellprob[3], "weight")
    n_flow, n_cellprob = to_flow.shape[1], to_cellprob.shape[1]
    # Each output sees its own half of the hidden channels only.
    kernel = torch.cat(
        [
            F.pad(to_flow, (0, 0, 0, 0, 0, n_cellprob)),
            F.pad(to_cellprob, (0, 0, 0, 0, n_flow, 0)),
        ]
    )
    return _convolve_fours(hidden, kernel, both(3, "bias"))


def _convolve_fours(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Convolve as ``F.conv2d(x, weight, bias, padding=1)``, four pixels at a time.

    Three output channels fill three of the sixteen lanes of a vector unit. So the 2×2 pixels of a
    square are outputs of one convolution of stride 2, which sees the 4×4 pixels around them.

    Args:
        x: ``(N, in, H, W)``, H and W even.
        weight: ``(out, in, 3, 3)``.
        bias: ``(out,)``.
    """
    kernels = [F.pad(weight, (dx, 1 - dx, dy, 1 - dy)) for dy in (0, 1) for dx in (0, 1)]
    kernel = torch.stack(kernels, dim=1).flatten(0, 1)
    squares = F.conv2d(x, kernel, bias.repeat_interleave(len(kernels)), stride=2, padding=1)
    return F.pixel_shuffle(squares, 2)


class _Predictor(nn.Module):
    """The same function as the network's own ``forward``, with fewer operations."""

    def __init__(self, model: MediarFormer) -> None:
        super().__init__()
        self.model = model

    def forward(self, window: Tensor) -> Tensor:
        bottleneck, *skips = reversed(self.model.encoder(window))
        x: Tensor = self.model.decoder.center(bottleneck)
        for i, block in enumerate(self.model.decoder.blocks):
            x = _fuse(block, x, skips[i]) if i < len(skips) else _upsample(block, x)
        return _apply_heads(self.model, x)


class _WeightsAsInputs(nn.Module):
    def __init__(self, model: MediarFormer, names: list[str]) -> None:
        super().__init__()
        self._predictor, self._names = _Predictor(model), names

    def forward(self, window: Tensor, *weights: Tensor) -> Tensor:
        entries = {f"model.{n}": w for n, w in zip(self._names, weights, strict=True)}
        logits: Tensor = torch.func.functional_call(self._predictor, entries, (window,))
        return logits


def export_graph(architecture: Architecture, roi_size: int, folder: Path) -> Path:
    """Export the graph of an architecture; takes about half a minute.

    Args:
        architecture: sizes of the network.
        roi_size: side of the windows.
        folder: where to write the ``.xml`` and ``.bin`` files.

    Returns:
        The ``.xml`` file.
    """
    import openvino

    model = MediarFormer(architecture).eval().requires_grad_(False)
    entries = {n: t for n, t in model.state_dict().items() if not n.endswith(UNUSED_ENTRY)}
    window = torch.zeros(1, 3, roi_size, roi_size)
    wrapped = _WeightsAsInputs(model, list(entries))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # about names that torch itself uses
        program = torch.export.export(wrapped, (window, *entries.values()))
        graph = openvino.convert_model(program)
    shapes = {}
    inputs = {WINDOW_INPUT: window} | entries
    for parameter, (name, values) in zip(graph.get_parameters(), inputs.items(), strict=True):
        parameter.set_friendly_name(name)
        shapes[parameter.output(0)] = list(values.shape)
    graph.reshape(shapes)  # the conversion makes all sides dynamic
    path = folder / graph_name(architecture, roi_size)
    with TemporaryDirectory(dir=folder) as scratch:
        written = Path(scratch) / path.name
        openvino.save_model(graph, written, compress_to_fp16=False)
        # The file that find_graph looks for is moved last: an interrupted export leaves none.
        for suffix in (".bin", ".xml"):
            written.with_suffix(suffix).replace(path.with_suffix(suffix))
    return path
