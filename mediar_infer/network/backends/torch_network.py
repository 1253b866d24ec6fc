"""A network rewritten for prediction: the same function, with less work at every call.

Networks are modified in place, so that they are copied once however much is rewritten.
"""

from itertools import pairwise

import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval


def fold_norms(model: nn.Module) -> None:
    """Fold each BatchNorm that directly follows a convolution into its weights.

    On an accelerator it is a pass of its own over the convolution's output. Logits change by
    float32 rounding. The norms of the heads stay: they precede a convolution whose padding is
    zeros, not the norm of zeros.

    Args:
        model: in evaluation mode; afterwards for prediction only.
    """
    for block in model.modules():
        if not isinstance(block, nn.Sequential):
            continue
        for i, (conv, norm) in enumerate(pairwise(list(block))):
            # The very types: what is derived from them may compute something else.
            if type(conv) is not nn.Conv2d or type(norm) is not nn.BatchNorm2d:
                continue
            if norm.running_mean is not None:
                block[i], block[i + 1] = fuse_conv_bn_eval(conv, norm), nn.Identity()


def halve_weights(model: nn.Module, dtype: torch.dtype) -> None:
    """Cast weights of convolutions and matrix products, which autocast would cast at every call.

    The logits are the same to the last bit: what autocast leaves in float32 stays so.

    Args:
        model: the network; afterwards to be run under autocast.
        dtype: the type of autocast.
    """
    for layer in model.modules():
        if type(layer) in (nn.Conv2d, nn.Linear):
            layer.to(dtype)
