"""BatchNorm over all processes, on CPUs and GPUs (torch's own one is for GPUs only)."""

from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

_Norm = TypeVar("_Norm", bound=nn.BatchNorm2d)


class _SumOverProcesses(torch.autograd.Function):
    """All-reduced sum; its gradient is the sum of the gradients of all processes."""

    @staticmethod
    def forward(ctx: Any, values: Tensor) -> Tensor:  # noqa: ANN401 (torch's context)
        del ctx
        total = values.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:  # noqa: ANN401
        del ctx
        total = gradients[0].contiguous().clone()
        dist.all_reduce(total)
        return total


def _sum_over_processes(values: Tensor) -> Tensor:
    total: Tensor = _SumOverProcesses.apply(values)  # type: ignore[no-untyped-call]
    return total


class SynchronisedBatchNorm(nn.BatchNorm2d):
    """BatchNorm whose means and variances are those of the crops of all processes together.

    In evaluation mode, and in a single process, it is ``nn.BatchNorm2d``.
    """

    def forward(self, input: Tensor) -> Tensor:
        """Normalise ``(N, C, H, W)``; N may differ between processes."""
        is_alone = not dist.is_initialized() or dist.get_world_size() == 1
        if not self.training or is_alone:
            return super().forward(input)
        values = input.float()
        shape = (1, -1, 1, 1)
        local_sum = values.sum((0, 2, 3))
        number = values.new_full((1,), values.numel() / values.shape[1])
        sums = _sum_over_processes(torch.cat([local_sum, number]))
        count = sums[-1].detach()
        mean = sums[:-1] / count
        # Squared distances from the common mean, not a difference of large numbers.
        centred = values - mean.view(shape)
        variance = _sum_over_processes((centred * centred).sum((0, 2, 3))) / count
        update_statistics(self, mean.detach(), variance.detach(), float(count))
        scale = self.weight * torch.rsqrt(variance + self.eps)
        result = centred * scale.view(shape) + self.bias.view(shape)
        return result.to(input.dtype)


@torch.no_grad()
def update_statistics(norm: nn.BatchNorm2d, mean: Tensor, variance: Tensor, count: float) -> None:
    """Move the running statistics of a norm towards those of a batch.

    Args:
        norm: modified.
        mean: ``(C,)`` of the batch.
        variance: ``(C,)`` of the batch, with ``count`` as divisor.
        count: pixels of the batch.
    """
    assert norm.running_mean is not None
    assert norm.running_var is not None
    assert norm.num_batches_tracked is not None
    assert norm.momentum is not None
    norm.num_batches_tracked.add_(1)
    norm.running_mean.lerp_(mean.to(norm.running_mean), norm.momentum)
    unbiased = variance * (count / max(count - 1, 1))
    norm.running_var.lerp_(unbiased.to(norm.running_var), norm.momentum)


def synchronise_norms(model: nn.Module) -> None:
    """Let every BatchNorm of a model see the crops of all processes; entry names stay.

    Args:
        model: modified.
    """
    for module in list(model.modules()):
        for name, child in module.named_children():
            if type(child) is nn.BatchNorm2d:
                setattr(module, name, copy_norm(child, SynchronisedBatchNorm))


def copy_norm(norm: nn.BatchNorm2d, kind: type[_Norm]) -> _Norm:
    """Make a norm of another kind that shares weights and statistics with a given one."""
    made = kind(norm.num_features, norm.eps, norm.momentum)
    made.weight, made.bias = norm.weight, norm.bias
    made.running_mean, made.running_var = norm.running_mean, norm.running_var
    made.num_batches_tracked = norm.num_batches_tracked
    made.train(norm.training)
    return made


def freeze_statistics(model: nn.Module) -> None:
    """Let every BatchNorm use the means and variances that it has; call after ``train()``.

    Args:
        model: modified.
    """
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eval()
