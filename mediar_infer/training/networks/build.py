"""The networks of the paper's Table 5, by name: all map an image to the three dense maps.

MEDIAR-Former itself is the engine's; with one head it is what the table calls its base structure
(with a small decoder) and the steps before head separation. U-Net, UNETR and Swin-UNETR are MONAI's
in two dimensions. The engine loads ``mediar_former`` only: the others are for comparison.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mediar_infer.arrays import CELLPROB
from mediar_infer.errors import UsageError
from mediar_infer.network.architecture import Architecture
from mediar_infer.network.model import STRIDE, Decoder, Encoder, MediarFormer

N_OUTPUTS = CELLPROB + 1
"""Flow y, flow x, cell-probability logit."""

_FULL_WIDTH = 512
"""Bottleneck of mit_b5: with it the compared networks have their published sizes."""
_MIN_CROP_SIZE = 2 * STRIDE
"""Smaller crops leave one position at the bottleneck, which cannot be normalised per image."""
_DEFAULT_WINDOW = 512
_WINDOW_SIZE = "mediar_window_size"
_UNET_CHANNELS = (16, 32, 64, 128, 256)
_UNETR_HEADS = 12
_UNETR_HIDDEN = 768
_UNETR_FEATURES = 16
_SWIN_FEATURES = 24
_SWIN_STEP = 12


class OneHeadFormer(nn.Module):
    """MEDIAR-Former before head separation: one 3×3 convolution predicts all three maps.

    Args:
        architecture: sizes of encoder and decoder, as for the engine's network.
        drop_path: stochastic depth rate of the last encoder block (training only).
    """

    def __init__(self, architecture: Architecture, drop_path: float = 0.0) -> None:
        super().__init__()
        self.architecture = architecture
        self.encoder = Encoder(architecture, drop_path)
        self.decoder = Decoder(architecture)
        self.head = nn.Conv2d(architecture.decoder_channels[-1], N_OUTPUTS, 3, padding=1)

    def forward(self, inputs: Tensor) -> Tensor:
        """Predict dense maps.

        Args:
            inputs: ``(N, 3, H, W)`` in [0, 1]; H and W multiples of 32.

        Returns:
            ``(N, 3, H, W)``: flow y and flow x (five times the unit flow), cell-probability logit.
        """
        logits: Tensor = self.head(self.decoder(self.encoder(inputs)))
        return logits


class ReconstructingFormer(MediarFormer):
    """MEDIAR-Former with a head more, which learns to paint the input (paper, Table 8).

    Args:
        architecture: sizes of all parts.
        drop_path: stochastic depth rate of the last encoder block (training only).
    """

    def __init__(self, architecture: Architecture, drop_path: float = 0.0) -> None:
        super().__init__(architecture, drop_path)
        self.reconstruction_head = nn.Conv2d(architecture.decoder_channels[-1], 3, 3, padding=1)

    def forward(self, inputs: Tensor) -> Tensor:
        """Predict dense maps and, in training mode, the input.

        Args:
            inputs: ``(N, 3, H, W)`` in [0, 1]; H and W multiples of 32.

        Returns:
            ``(N, 3, H, W)`` as MEDIAR-Former gives them; in training mode ``(N, 6, H, W)``, the
            last three channels being the painted image.
        """
        decoded = self.decoder(self.encoder(inputs))
        outputs = [self.gradflow_head(decoded), self.cellprob_head(decoded)]
        if self.training:
            outputs.append(self.reconstruction_head(decoded))
        return torch.cat(outputs, dim=1)

    def additional_entries(self) -> dict[str, Tensor]:
        """Entries of the state dict that a plain MEDIAR-Former does not have."""
        head = self.reconstruction_head.state_dict()
        return {f"reconstruction_head.{name}": value for name, value in head.items()}


def bind_windows(network: nn.Module, size: int) -> None:
    """Let a network be given windows of a size of its own where it is scored.

    Args:
        network: modified.
        size: side in pixels, a multiple of 32.
    """
    setattr(network, _WINDOW_SIZE, size)


def window_size(network: nn.Module) -> int:
    """Side of the windows that a network is given: 512, or what it is bound to."""
    bound: int = getattr(network, _WINDOW_SIZE, _DEFAULT_WINDOW)
    return bound


def build_network(
    name: str, architecture: Architecture, *, crop_size: int = 512, drop_path: float = 0.0
) -> nn.Module:
    """Build a network with fresh weights, drawn from torch's global generator.

    The compared networks have their published sizes beside an encoder of the paper's width (512 at
    the bottleneck) and are narrowed in proportion to it beside a smaller one.

    Args:
        name: one of ``NETWORKS``.
        architecture: sizes of a MEDIAR-Former; for the others its bottleneck width counts.
        crop_size: side of the training crops and, for ``unetr``, whose position code has a fixed
            size, of every window it will ever see. A multiple of 32, at least 64.
        drop_path: stochastic depth rate; for encoders that have it.

    Returns:
        A module ``(N, 3, S, S)`` float32 in [0, 1] → ``(N, 3, S, S)`` logits: flow y, flow x,
        cell probability.

    Raises:
        UsageError: if there is no such network, the crop does not fit it, or a package is missing.

    References:
        Ronneberger et al. 2015 (U-Net), Hatamizadeh et al. 2022 (UNETR, Swin-UNETR), in MONAI.
    """
    if name not in _BUILDERS:
        raise UsageError(f"found network {name!r}, expected one of {', '.join(NETWORKS)}")
    if crop_size < _MIN_CROP_SIZE or crop_size % STRIDE:
        raise UsageError(
            f"found crops of {crop_size} pixels for {name}, expected a multiple of {STRIDE} of at"
            f" least {_MIN_CROP_SIZE}"
        )
    return _BUILDERS[name](architecture, crop_size, drop_path)


def _mediar_former(architecture: Architecture, _crop_size: int, drop_path: float) -> nn.Module:
    return MediarFormer(architecture, drop_path)


def _one_head_former(architecture: Architecture, _crop_size: int, drop_path: float) -> nn.Module:
    return OneHeadFormer(architecture, drop_path)


def _reconstructing_former(
    architecture: Architecture, _crop_size: int, drop_path: float
) -> nn.Module:
    return ReconstructingFormer(architecture, drop_path)


def _narrowed(architecture: Architecture, width: int, step: int) -> int:
    """A published width in proportion to the architecture's; a multiple of ``step``."""
    share = architecture.encoder_channels[-1] / _FULL_WIDTH
    return step * max(1, round(width * share / step))


def _unet(architecture: Architecture, _crop_size: int, _drop_path: float) -> nn.Module:
    from monai.networks.nets import UNet

    network: nn.Module = UNet(
        spatial_dims=2,
        in_channels=3,
        out_channels=N_OUTPUTS,
        channels=[_narrowed(architecture, width, 4) for width in _UNET_CHANNELS],
        strides=(2, 2, 2, 2),
        num_res_units=2,
    )
    return network


def _unetr(architecture: Architecture, crop_size: int, drop_path: float) -> nn.Module:
    del drop_path  # its encoder has no stochastic depth
    from monai.networks.nets import UNETR

    hidden_size = _narrowed(architecture, _UNETR_HIDDEN, _UNETR_HEADS)

    def build() -> nn.Module:
        network: nn.Module = UNETR(
            in_channels=3,
            out_channels=N_OUTPUTS,
            img_size=crop_size,
            feature_size=_narrowed(architecture, _UNETR_FEATURES, 4),
            hidden_size=hidden_size,
            mlp_dim=4 * hidden_size,
            num_heads=_UNETR_HEADS,
            spatial_dims=2,
        )
        # Norms for a cross-attention that it does not do; several processes that average gradients
        # would wait for these.
        for name, parameter in network.named_parameters():
            parameter.requires_grad_("norm_cross_attn" not in name)
        bind_windows(network, crop_size)
        return network

    return _with_packages("unetr", build)


def _swin_unetr(architecture: Architecture, _crop_size: int, drop_path: float) -> nn.Module:
    from monai.networks.nets import SwinUNETR

    def build() -> nn.Module:
        network: nn.Module = SwinUNETR(
            in_channels=3,
            out_channels=N_OUTPUTS,
            feature_size=_narrowed(architecture, _SWIN_FEATURES, _SWIN_STEP),
            dropout_path_rate=drop_path,
            spatial_dims=2,
        )
        return network

    return _with_packages("swin_unetr", build)


def _with_packages(name: str, build: Callable[[], nn.Module]) -> nn.Module:
    from monai.utils.module import OptionalImportError

    try:
        return build()
    except OptionalImportError as error:
        reason = str(error).partition("\n")[0]
        raise UsageError(
            f"network {name}: a package that MONAI needs is missing ({reason});"
            " install the training packages: pip install 'mediar-infer[training]'"
        ) from error


_BUILDERS: dict[str, Callable[[Architecture, int, float], nn.Module]] = {
    "mediar_former": _mediar_former,
    "mediar_former_one_head": _one_head_former,
    "mediar_former_reconstructing": _reconstructing_former,
    "unet": _unet,
    "unetr": _unetr,
    "swin_unetr": _swin_unetr,
}

NETWORKS = tuple(_BUILDERS)
"""Names that :func:`build_network` knows."""


def pool_features(network: nn.Module, inputs: Tensor, weights: Tensor) -> Tensor:
    """Average each of the encoder's four feature maps over the pixels that count.

    All stages are taken: the early ones tell stains and textures apart, the last one what the cells
    look like.

    Args:
        network: ``mediar_former`` or ``mediar_former_one_head``.
        inputs: ``(N, 3, H, W)`` in [0, 1]; H and W multiples of 32.
        weights: ``(N, 1, H, W)``, 1 where a pixel belongs to the image and 0 in its padding.

    Returns:
        ``(N, sum(encoder_channels))`` float32.

    Raises:
        UsageError: if the network has no such encoder.
    """
    if not isinstance(network, MediarFormer | OneHeadFormer):
        raise UsageError(
            f"found a {type(network).__name__}, expected a MEDIAR-Former, whose encoder gives the"
            " embeddings"
        )
    pooled = []
    for features in network.encoder(inputs):
        shares = F.avg_pool2d(weights.float(), weights.shape[-1] // features.shape[-1])
        pooled.append((features.float() * shares).sum((2, 3)) / shares.sum((2, 3)))
    return torch.cat(pooled, dim=1)
