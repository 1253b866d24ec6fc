"""MEDIAR-Former: SegFormer (MiT) encoder, MA-Net decoder, two heads; plain torch and nothing else.

The module tree carries the entry names of the published checkpoints, so their state dicts load
strictly. The layers are written for inference speed: tokens are channels-last images seen as
``(N, H·W, C)`` without a copy, and attention is ``scaled_dot_product_attention``.

References:
    Lee et al., MEDIAR, NeurIPS 2022 Cell Segmentation Challenge (section 5.1).
    Xie et al., SegFormer, 2021 (encoder). Fan et al., MA-Net, 2020 (decoder).
"""

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mediar_infer.network.architecture import Architecture

STRIDE = 32
"""Input height and width must be multiples of this: the encoder halves the image five times."""

_HEADS = (1, 2, 5, 8)
_SQUEEZE = 16
_PATCHES = ((7, 4), (3, 2), (3, 2), (3, 2))


def _to_tokens(x: Tensor) -> Tensor:
    return x.flatten(2).transpose(1, 2)


def _to_map(tokens: Tensor, height: int, width: int) -> Tensor:
    return torch.unflatten(tokens.transpose(1, 2), 2, (height, width))


class _PatchEmbed(nn.Module):
    def __init__(self, in_channels: int, out_channels: int, kernel: int, stride: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(in_channels, out_channels, kernel, stride, kernel // 2)
        self.norm = nn.LayerNorm(out_channels)

    def forward(self, x: Tensor) -> tuple[Tensor, int, int]:
        x = self.proj(x)
        return self.norm(_to_tokens(x)), x.shape[2], x.shape[3]


class _Attention(nn.Module):
    """Self-attention; keys and values are pooled over ``reduction`` × ``reduction`` squares."""

    def __init__(self, channels: int, n_heads: int, reduction: int) -> None:
        super().__init__()
        self.n_heads = n_heads
        self.reduction = reduction
        self.q = nn.Linear(channels, channels)
        self.kv = nn.Linear(channels, 2 * channels)
        self.proj = nn.Linear(channels, channels)
        if reduction > 1:
            self.sr = nn.Conv2d(channels, channels, reduction, reduction)
            self.norm = nn.LayerNorm(channels)

    def forward(self, tokens: Tensor, height: int, width: int) -> Tensor:
        split = (self.n_heads, tokens.shape[2] // self.n_heads)
        query = self.q(tokens).unflatten(2, split).transpose(1, 2)
        if self.reduction > 1:
            tokens = self.norm(_to_tokens(self.sr(_to_map(tokens, height, width))))
        key, value = self.kv(tokens).unflatten(2, (2, *split)).permute(2, 0, 3, 1, 4).unbind(0)
        mixed = F.scaled_dot_product_attention(query, key, value)
        attended: Tensor = self.proj(mixed.transpose(1, 2).flatten(2))
        return attended


class _DepthwiseConv(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.dwconv = nn.Conv2d(channels, channels, 3, 1, 1, groups=channels)

    def forward(self, tokens: Tensor, height: int, width: int) -> Tensor:
        return _to_tokens(self.dwconv(_to_map(tokens, height, width)))


class _MixFfn(nn.Module):
    def __init__(self, channels: int, hidden_channels: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(channels, hidden_channels)
        self.dwconv = _DepthwiseConv(hidden_channels)
        self.fc2 = nn.Linear(hidden_channels, channels)

    def forward(self, tokens: Tensor, height: int, width: int) -> Tensor:
        mixed: Tensor = self.fc2(F.gelu(self.dwconv(self.fc1(tokens), height, width)))
        return mixed


class _Block(nn.Module):
    def __init__(
        self, channels: int, n_heads: int, reduction: int, mlp_ratio: int, drop_path: float
    ) -> None:
        super().__init__()
        self.drop_path = drop_path
        self.norm1 = nn.LayerNorm(channels, eps=1e-6)
        self.attn = _Attention(channels, n_heads, reduction)
        self.norm2 = nn.LayerNorm(channels, eps=1e-6)
        self.mlp = _MixFfn(channels, mlp_ratio * channels)

    def _kept(self, branch: Tensor) -> Tensor:
        """Stochastic depth: whole samples of a residual branch are dropped while training."""
        if not self.training or self.drop_path == 0.0:
            return branch
        keep = 1.0 - self.drop_path
        kept = torch.empty(len(branch), 1, 1, dtype=branch.dtype, device=branch.device)
        return branch * kept.bernoulli_(keep).div_(keep)

    def forward(self, tokens: Tensor, height: int, width: int) -> Tensor:
        tokens = tokens + self._kept(self.attn(self.norm1(tokens), height, width))
        return tokens + self._kept(self.mlp(self.norm2(tokens), height, width))


class Encoder(nn.Module):
    """Mix Transformer: four stages at 1/4, 1/8, 1/16 and 1/32 of the input size."""

    def __init__(self, architecture: Architecture, drop_path: float = 0.0) -> None:
        super().__init__()
        widths = (3, *architecture.encoder_channels)
        n_blocks = sum(architecture.depths)
        rates = iter([drop_path * i / max(n_blocks - 1, 1) for i in range(n_blocks)])
        for stage in range(4):
            channels = widths[stage + 1]
            blocks = (
                _Block(
                    channels,
                    _HEADS[stage],
                    architecture.reductions[stage],
                    architecture.mlp_ratio,
                    next(rates),
                )
                for _ in range(architecture.depths[stage])
            )
            embed = _PatchEmbed(widths[stage], channels, *_PATCHES[stage])
            self.add_module(f"patch_embed{stage + 1}", embed)
            self.add_module(f"block{stage + 1}", nn.ModuleList(blocks))
            self.add_module(f"norm{stage + 1}", nn.LayerNorm(channels, eps=1e-6))

    def forward(self, inputs: Tensor) -> list[Tensor]:
        """Compute the feature maps of the four stages.

        Args:
            inputs: ``(N, 3, H, W)``, H and W multiples of 32.

        Returns:
            Four tensors ``(N, C, H/s, W/s)``, s = 4, 8, 16, 32.
        """
        x, features = inputs, []
        for stage in "1234":
            tokens, height, width = self.get_submodule(f"patch_embed{stage}")(x)
            blocks = self.get_submodule(f"block{stage}")
            assert isinstance(blocks, nn.ModuleList)
            for block in blocks:
                tokens = block(tokens, height, width)
            x = _to_map(self.get_submodule(f"norm{stage}")(tokens), height, width)
            features.append(x)
        return features


def _conv_norm_mish(in_channels: int, out_channels: int, kernel: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, kernel, padding=kernel // 2, bias=False),
        nn.BatchNorm2d(out_channels),
        nn.Mish(inplace=True),
    )


def _full_precision(device_type: str) -> AbstractContextManager[object]:
    if torch.amp.autocast_mode.is_autocast_available(device_type):
        return torch.autocast(device_type, enabled=False)
    return nullcontext()


class _PositionAttention(nn.Module):
    """PAB: attention of every bottleneck position to every other, one softmax over all pairs."""

    def __init__(self, channels: int, pab_channels: int) -> None:
        super().__init__()
        self.top_conv = nn.Conv2d(channels, pab_channels, 1)
        self.center_conv = nn.Conv2d(channels, pab_channels, 1)
        self.bottom_conv = nn.Conv2d(channels, channels, 3, padding=1)
        self.out_conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        query = _to_tokens(self.center_conv(x))
        key = self.top_conv(x).flatten(2)
        value = _to_tokens(self.bottom_conv(x))
        # The softmax runs over all pairs of positions at once: for a 512 window its mean is 1.5e-5,
        # below the normal range of float16, so this product stays in float32 under autocast.
        with _full_precision(x.device.type):
            scores = query.float() @ key.float()
            weights = scores.flatten(1).softmax(1).view_as(scores)
            mixed = weights @ value.float()
        # As in the reference, (positions, channels) memory is read as (channels, positions).
        mixed = mixed.reshape(x.shape[0], x.shape[1], x.shape[2], x.shape[3])
        attended: Tensor = self.out_conv(x + mixed.to(x.dtype))
        return attended


def _squeeze_excite(channels: int) -> nn.Sequential:
    hidden = max(1, channels // _SQUEEZE)
    return nn.Sequential(
        nn.AdaptiveAvgPool2d(1),
        nn.Conv2d(channels, hidden, 1),
        nn.Mish(inplace=True),
        nn.Conv2d(hidden, channels, 1),
        nn.Sigmoid(),
    )


class _FusionBlock(nn.Module):
    """MFAB: upsamples and fuses with a skip connection, channels weighted from both sides."""

    def __init__(self, in_channels: int, skip_channels: int, out_channels: int) -> None:
        super().__init__()
        self.hl_conv = nn.Sequential(
            _conv_norm_mish(in_channels, in_channels, 3),
            _conv_norm_mish(in_channels, skip_channels, 1),
        )
        self.SE_ll = _squeeze_excite(skip_channels)
        self.SE_hl = _squeeze_excite(skip_channels)
        self.conv1 = _conv_norm_mish(2 * skip_channels, out_channels, 3)
        self.conv2 = _conv_norm_mish(out_channels, out_channels, 3)

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        x = F.interpolate(self.hl_conv(x), scale_factor=2.0, mode="nearest")
        x = x * (self.SE_hl(x) + self.SE_ll(skip))
        fused: Tensor = self.conv2(self.conv1(torch.cat([x, skip], dim=1)))
        return fused


class _UpBlock(nn.Module):
    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.conv1 = _conv_norm_mish(in_channels, out_channels, 3)
        self.conv2 = _conv_norm_mish(out_channels, out_channels, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = F.interpolate(x, scale_factor=2.0, mode="nearest")
        upsampled: Tensor = self.conv2(self.conv1(x))
        return upsampled


class Decoder(nn.Module):
    """MA-Net decoder: PAB at the bottleneck, three fusion blocks, two plain upsampling blocks."""

    def __init__(self, architecture: Architecture) -> None:
        super().__init__()
        bottleneck, *skips = reversed(architecture.encoder_channels)
        widths = (bottleneck, *architecture.decoder_channels)
        self.center = _PositionAttention(bottleneck, architecture.pab_channels)
        self.blocks = nn.ModuleList(
            _FusionBlock(widths[i], skips[i], widths[i + 1])
            if i < len(skips)
            else _UpBlock(widths[i], widths[i + 1])
            for i in range(len(architecture.decoder_channels))
        )

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        """Decode the encoder's features to ``(N, decoder_channels[-1], H, W)``."""
        bottleneck, *skips = reversed(features)
        x = self.center(bottleneck)
        for i, block in enumerate(self.blocks):
            x = block(x, skips[i]) if i < len(skips) else block(x)
        decoded: Tensor = x
        return decoded


def _head(in_channels: int, out_channels: int) -> nn.Sequential:
    hidden = in_channels // 2
    return nn.Sequential(
        nn.Conv2d(in_channels, hidden, 3, padding=1),
        nn.Mish(inplace=True),
        nn.BatchNorm2d(hidden),
        nn.Conv2d(hidden, out_channels, 3, padding=1),
    )


class MediarFormer(nn.Module):
    """The whole network: image → flow y, flow x, cell-probability logit.

    Args:
        architecture: sizes of all parts.
        drop_path: stochastic depth rate of the last encoder block (training only).
    """

    def __init__(self, architecture: Architecture, drop_path: float = 0.0) -> None:
        super().__init__()
        self.architecture = architecture
        self.encoder = Encoder(architecture, drop_path)
        self.decoder = Decoder(architecture)
        self.cellprob_head = _head(architecture.decoder_channels[-1], 1)
        self.gradflow_head = _head(architecture.decoder_channels[-1], 2)

    def forward(self, inputs: Tensor) -> Tensor:
        """Predict dense maps.

        Args:
            inputs: ``(N, 3, H, W)`` in [0, 1]; H and W multiples of 32.

        Returns:
            ``(N, 3, H, W)``: flow y and flow x (five times the unit flow), cell-probability logit.
        """
        decoded = self.decoder(self.encoder(inputs))
        return torch.cat([self.gradflow_head(decoded), self.cellprob_head(decoded)], dim=1)
