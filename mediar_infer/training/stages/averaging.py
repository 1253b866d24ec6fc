"""A moving average of the weights: smoother than those of any single step."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn


class WeightAverage:
    """Exponential moving average of all weights and BatchNorm statistics.

    Args:
        model: start of the average; the entries are copied, on their device.
    """

    def __init__(self, model: nn.Module) -> None:
        self.state = {name: value.detach().clone() for name, value in model.state_dict().items()}

    @torch.no_grad()
    def update(self, model: nn.Module, decay: float) -> None:
        """Move the average towards the model by ``1 - decay``; counters are copied."""
        for name, value in model.state_dict().items():
            average = self.state[name]
            if average.is_floating_point():
                average.lerp_(value, 1.0 - decay)
            else:
                average.copy_(value)

    @torch.no_grad()
    def load(self, state: Mapping[str, Tensor]) -> None:
        """Copy saved entries."""
        for name, value in state.items():
            self.state[name].copy_(value)


def blend_weights(
    first: Mapping[str, Tensor], second: Mapping[str, Tensor], share: float
) -> dict[str, Tensor]:
    """Average the weights of two networks of one architecture, entry by entry.

    A blend of the weights before and after fine-tuning keeps what either of them has learned.

    Args:
        first: entries that get the weight ``1 - share``. Not modified.
        second: entries that get the weight ``share``; its integers are used.
        share: weight of the second network, in [0, 1].

    Returns:
        The entries in float32.

    References:
        Wortsman et al., Robust fine-tuning of zero-shot models ("WiSE-FT"), 2022.
    """
    return {
        name: torch.lerp(first[name].float(), value.float(), share)
        if value.is_floating_point()
        else value
        for name, value in second.items()
    }
