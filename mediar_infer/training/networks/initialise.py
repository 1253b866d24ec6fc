"""Random start weights of a MEDIAR-Former that is trained without an ImageNet encoder."""

import math

from torch import nn

from mediar_infer.network.model import MediarFormer
from mediar_infer.training.networks.build import OneHeadFormer

_LINEAR_STD = 0.02


def initialise_weights(model: nn.Module) -> None:
    """Draw start weights in place, from torch's global generator.

    Linear layers get a truncated normal of 0.02, convolutions He's normal by fan-out (both as in
    SegFormer), biases 0. The last layer of each head also gets 0.02, so that the first outputs are
    near 0 whatever the widths. Networks of other kinds keep the weights that they were built with.

    Args:
        model: modified.
    """
    last_layers: tuple[nn.Module, ...]
    if isinstance(model, MediarFormer):
        last_layers = (model.cellprob_head[-1], model.gradflow_head[-1])
    elif isinstance(model, OneHeadFormer):
        last_layers = (model.head,)
    else:
        return
    for module in model.modules():
        if isinstance(module, nn.Linear):
            nn.init.trunc_normal_(module.weight, std=_LINEAR_STD)
            nn.init.zeros_(module.bias)
        elif isinstance(module, nn.Conv2d):
            fan_out = math.prod(module.kernel_size) * module.out_channels // module.groups
            nn.init.normal_(module.weight, 0.0, math.sqrt(2.0 / fan_out))
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    for last in last_layers:
        assert isinstance(last, nn.Conv2d)
        nn.init.trunc_normal_(last.weight, std=_LINEAR_STD)
