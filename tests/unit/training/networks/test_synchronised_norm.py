"""BatchNorm over processes is the one of a single process with all crops."""

import copy

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import nn

from mediar_infer.training.networks.synchronised_norm import freeze_statistics, synchronise_norms


def make_model():
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Mish(), nn.Conv2d(4, 2, 1)]
    return nn.Sequential(*layers, nn.Sequential(nn.BatchNorm2d(2)))


def compute(model, inputs):
    """Gradients of a loss that is a mean over crops, and running statistics."""
    model(inputs).pow(3).mean((1, 2, 3)).mean().backward()
    gradients = {name: p.grad for name, p in model.named_parameters()}
    return gradients, dict(model.named_buffers())


def work(rank, path):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{path}", rank=rank, world_size=2)
    model = make_model()
    synchronise_norms(model)
    inputs = torch.load(f"{path}.pt")
    gradients, buffers = compute(model, inputs[2 * rank : 2 * rank + 2])
    for gradient in gradients.values():
        dist.all_reduce(gradient)
        gradient /= 2
    if rank == 0:
        torch.save((gradients, buffers), f"{path}.result.pt")
    dist.destroy_process_group()


def test_two_processes_give_the_gradients_and_statistics_of_one(tmp_path):
    path = tmp_path / "meeting"
    inputs = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(1)) + 2
    torch.save(inputs, f"{path}.pt")
    mp.spawn(work, (path,), nprocs=2)
    gradients, buffers = torch.load(f"{path}.result.pt")
    expected_gradients, expected_buffers = compute(make_model(), inputs)
    assert expected_buffers.keys() == buffers.keys()
    torch.testing.assert_close(gradients, expected_gradients, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(buffers, expected_buffers, rtol=1e-5, atol=1e-6)


def test_alone_it_is_plain_batch_norm_under_the_same_names():
    model = make_model()
    other = copy.deepcopy(model)
    synchronise_norms(other)
    assert list(other.state_dict()) == list(model.state_dict())
    inputs = torch.randn(2, 3, 8, 8)
    for training in (True, False):
        model.train(training)
        other.train(training)
        torch.testing.assert_close(other(inputs), model(inputs))


def test_frozen_statistics_stay():
    model = make_model().train()
    freeze_statistics(model)
    before = copy.deepcopy(dict(model.named_buffers()))
    model(torch.randn(2, 3, 8, 8) + 5)
    torch.testing.assert_close(dict(model.named_buffers()), before, rtol=0, atol=0)
