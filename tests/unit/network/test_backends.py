"""Every backend gives the network's own numbers and leaves its input alone."""

import subprocess
import sys
import warnings
from concurrent.futures import ThreadPoolExecutor
from copy import deepcopy
from dataclasses import replace

import numpy as np
import pytest
import torch

from mediar_infer.config import EngineConfig
from mediar_infer.devices import CPU, Device
from mediar_infer.errors import CheckpointError, UsageError
from mediar_infer.network.architecture import ENCODERS, Architecture
from mediar_infer.network.backends.openvino_backend import OpenVinoBackend
from mediar_infer.network.backends.openvino_export import export_graph
from mediar_infer.network.backends.openvino_graph import (
    compile_graph,
    has_bfloat16,
    read_graph,
)
from mediar_infer.network.backends.torch_backend import TorchBackend
from mediar_infer.network.backends.torch_network import fold_norms, halve_weights
from mediar_infer.network.checkpoints import (
    Checkpoint,
    build_model,
    check_entries,
    find_graph_of,
    load_checkpoint,
    save_weights,
)
from mediar_infer.network.graphs import (
    PUBLISHED_GRAPHS,
    WINDOW_INPUT,
    describe_graph_entries,
    find_graph,
    graph_name,
)
from mediar_infer.network.model import MediarFormer

TINY = Architecture((8, 16, 40, 64), (1, 1, 1, 1), (16, 16, 8, 8, 8), 4)
ROI = 64


def test_openvino_tells_nobody_of_its_import():
    code = (
        "import mediar_infer.network.backends, openvino, sys, threading\n"
        "assert sys.modules['openvino_telemetry'] is None\n"
        "assert threading.active_count() == 1"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    torch.manual_seed(1)
    model = MediarFormer(TINY).eval()
    # Statistics and scales other than those of a new network, so that folding them is tested.
    for name, value in model.state_dict().items():
        if value.is_floating_point() and value.ndim == 1:
            value.uniform_(0.5, 1.5) if "weight" in name or "var" in name else value.normal_(0, 0.2)
    path = tmp_path_factory.mktemp("weights") / "tiny.safetensors"
    save_weights(model.state_dict(), path)
    return load_checkpoint(path)


@pytest.fixture(scope="module")
def graph(checkpoint):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch.export warns of its own future changes
        return export_graph(TINY, ROI, checkpoint.path.parent)


def openvino_backend(checkpoint, graph, precision="float32"):
    compiled = compile_graph(read_graph(checkpoint, graph), 2, precision)
    return OpenVinoBackend(compiled, precision=precision)


@pytest.fixture
def inputs():
    return np.random.default_rng(0).random((5, 3, ROI, ROI), np.float32)


def test_openvino_agrees_with_torch(checkpoint, graph, inputs):
    expected = TorchBackend(build_model(checkpoint), CPU, "float32").start(inputs)()
    found = openvino_backend(checkpoint, graph).start(inputs)()
    assert found.shape == expected.shape
    assert np.abs(found - expected).max() <= 1e-4 * max(1.0, float(np.abs(expected).max()))


def test_windows_of_a_batch_keep_their_order(checkpoint, graph, inputs):
    backend = openvino_backend(checkpoint, graph)
    one_by_one = np.concatenate([backend.start(window[None])() for window in inputs])
    np.testing.assert_array_equal(backend.start(inputs)(), one_by_one)


def test_threads_that_share_a_backend_get_their_own_maps(checkpoint, graph, inputs):
    backend = openvino_backend(checkpoint, graph)
    expected = backend.start(inputs)()

    def predict_rolled(shift):
        found = [backend.start(np.roll(inputs, shift, axis=0))() for _ in range(50)]
        return all(np.array_equal(each, np.roll(expected, shift, axis=0)) for each in found)

    with ThreadPoolExecutor(4) as threads:
        assert all(threads.map(predict_rolled, range(4)))


@pytest.fixture(scope="module")
def fragile():
    """A network that doubles its window, and fails where the largest value is 7."""
    openvino = pytest.importorskip("openvino")
    from openvino import opset13 as ops

    window = ops.parameter([1, 3, 8, 8], np.float32)
    largest = ops.convert(ops.reduce_max(window, ops.constant(np.arange(4))), "i64")
    shape = ops.concat([ops.unsqueeze(largest, ops.constant(0)), ops.constant(np.array([-1]))], 0)
    reshaped = ops.reshape(ops.reshape(window, shape, False), ops.constant([1, 3, 8, 8]), False)
    model = openvino.Model([ops.multiply(reshaped, ops.constant(np.float32(2)))], [window])
    settings = {"NUM_STREAMS": 1, "INFERENCE_NUM_THREADS": 1}
    return openvino.Core().compile_model(model, "CPU", settings)


GOOD = np.full((4, 3, 8, 8), 3, np.float32)
FAILURE = "conflicts with the reshape pattern"


def broken_at(place):
    windows = GOOD.copy()
    windows[place] = 7
    return windows


@pytest.mark.parametrize("place", range(4))
def test_a_failed_window_fails_its_own_call_only(fragile, place):
    backend = OpenVinoBackend(fragile)
    for _ in range(3):
        with pytest.raises(RuntimeError, match=FAILURE):
            backend.start(broken_at(place))()
        for _ in range(2):
            np.testing.assert_array_equal(backend.start(GOOD)(), 2 * GOOD)


@pytest.mark.parametrize("comes_first", ["good", "broken"])
def test_calls_in_flight_do_not_get_the_failure_of_another(fragile, comes_first):
    backend = OpenVinoBackend(fragile)
    windows = {"good": GOOD, "broken": broken_at(-1)}
    order = sorted(windows, key=lambda name: name != comes_first)
    finish = {name: backend.start(windows[name]) for name in order}
    np.testing.assert_array_equal(finish["good"](), 2 * GOOD)
    with pytest.raises(RuntimeError, match=FAILURE):
        finish["broken"]()


def test_a_window_that_does_not_fit_is_refused_and_blocks_nothing(fragile):
    backend = OpenVinoBackend(fragile)
    for _ in range(3):
        with pytest.raises(RuntimeError):
            backend.start(np.zeros((2, 3, 9, 8), np.float32))
    np.testing.assert_array_equal(backend.start(GOOD)(), 2 * GOOD)


@pytest.mark.parametrize("windows", [GOOD, broken_at(-1)], ids=["good", "broken"])
def test_a_backend_may_be_dropped_while_windows_are_in_flight(fragile, windows):
    for _ in range(100):
        OpenVinoBackend(fragile).start(windows)


@pytest.mark.parametrize("kind", ["torch", "openvino"])
def test_input_is_not_modified(checkpoint, graph, inputs, kind):
    backend = (
        TorchBackend(build_model(checkpoint), CPU, "float32")
        if kind == "torch"
        else openvino_backend(checkpoint, graph)
    )
    before = inputs.copy()
    backend.start(inputs)()
    np.testing.assert_array_equal(inputs, before)


def test_bfloat16_stays_near_float32(checkpoint, inputs):
    model = build_model(checkpoint)
    exact = TorchBackend(model, CPU, "float32").start(inputs)()
    rounded = TorchBackend(model, CPU, "bfloat16").start(inputs)()
    assert rounded.dtype == np.float32
    assert np.abs(rounded - exact).mean() <= 0.05 * np.abs(exact).mean()


@pytest.mark.skipif(not has_bfloat16(), reason="this CPU has no bfloat16 instructions")
def test_openvino_in_bfloat16_stays_near_float32(checkpoint, graph, inputs):
    exact = openvino_backend(checkpoint, graph).start(inputs)()
    backend = openvino_backend(checkpoint, graph, "bfloat16")
    rounded = backend.start(inputs)()
    assert backend.precision == "bfloat16"
    assert rounded.dtype == np.float32
    assert 0 < np.abs(rounded - exact).mean() <= 0.05 * np.abs(exact).mean()


def test_a_cpu_without_bfloat16_is_refused_before_any_work(checkpoint, graph, monkeypatch):
    import openvino

    monkeypatch.setattr(openvino.Core, "get_property", lambda *_: ["FP32", "INT8"])
    with pytest.raises(UsageError, match=r"without bfloat16.*--precision float32"):
        openvino_backend(checkpoint, graph, "bfloat16")


def test_a_graph_is_found_by_its_architecture_and_window_size(checkpoint, graph):
    folder = checkpoint.path.parent
    assert find_graph(TINY, ROI, [folder / "elsewhere", folder]) == graph
    assert find_graph(TINY, 2 * ROI, [folder]) is None
    assert graph.name == graph_name(TINY, ROI)


def test_the_package_has_the_graph_of_the_published_networks():
    architecture = Architecture(*ENCODERS["mit_b5"])
    graph = find_graph(architecture, EngineConfig().roi_size, [PUBLISHED_GRAPHS])
    with torch.device("meta"):
        expected = MediarFormer(architecture).state_dict()
    entries = describe_graph_entries(graph)
    assert {name: shape for name, (shape, _) in entries.items()} == {
        name: tuple(values.shape) for name, values in expected.items()
    }


def test_the_graph_of_the_package_is_found_last_and_for_its_window_size_only(tmp_path):
    published = Checkpoint(tmp_path / "a.pth", "", Architecture(*ENCODERS["mit_b5"]), {})
    of_package = find_graph_of(published)
    assert of_package.parent == PUBLISHED_GRAPHS
    assert find_graph_of(published, ROI) is None
    own = tmp_path / of_package.name
    own.touch()
    assert find_graph_of(published) == own


@pytest.mark.slow
def test_the_graph_of_the_published_networks_agrees_with_torch(tmp_path):
    torch.manual_seed(0)
    architecture = Architecture(*ENCODERS["mit_b5"])
    save_weights(MediarFormer(architecture).state_dict(), tmp_path / "published.safetensors")
    checkpoint = load_checkpoint(tmp_path / "published.safetensors")
    inputs = np.random.default_rng(0).random((1, 3, 512, 512), np.float32)
    expected = TorchBackend(build_model(checkpoint), CPU, "float32").start(inputs)()
    found = openvino_backend(checkpoint, find_graph_of(checkpoint)).start(inputs)()
    np.testing.assert_allclose(found, expected, atol=1e-4 * np.abs(expected).max())


def test_a_damaged_graph_names_the_file_and_the_remedy(checkpoint, tmp_path):
    damaged = tmp_path / "graph.xml"
    damaged.write_text("<net")
    with pytest.raises(CheckpointError, match=r"graph\.xml.*weights graph"):
        read_graph(checkpoint, damaged)


def test_a_graph_of_another_architecture_is_refused(checkpoint, graph):
    entries = {k: v for k, v in checkpoint.entries.items() if not k.startswith("cellprob")}
    other = type(checkpoint)(checkpoint.path, checkpoint.digest, TINY, entries)
    with pytest.raises(CheckpointError, match="cellprob_head"):
        read_graph(other, graph)


def test_a_graph_knows_the_entries_of_its_network(checkpoint, graph):
    entries = describe_graph_entries(graph)
    network = MediarFormer(TINY).state_dict()
    assert entries == {k: (tuple(v.shape), v.is_floating_point()) for k, v in network.items()}
    check_entries(checkpoint, graph)


def test_entries_are_checked_by_the_graph_as_by_the_network(checkpoint, graph):
    entries = dict(checkpoint.entries)
    name, values = entries.popitem()
    entries |= {"extra": values, name: values.reshape(-1, 1, 1)}
    other = replace(checkpoint, entries=entries)
    errors = []
    for known in (graph, None):
        with pytest.raises(CheckpointError) as caught:
            check_entries(other, known)
        errors.append(str(caught.value))
    assert errors[0] == errors[1]
    assert "1 unexpected (extra); 1 of wrong shape" in errors[0]


@pytest.mark.parametrize(
    "text", ["", "<net", "<net><layers><layer type='Parameter'/></layers></net>"]
)
def test_entries_of_a_damaged_graph_name_the_file_and_the_remedy(tmp_path, text):
    damaged = tmp_path / "graph.xml"
    damaged.write_text(text)
    with pytest.raises(CheckpointError, match=r"graph\.xml: cannot be read.*weights graph"):
        describe_graph_entries(damaged)


def test_shapes_of_an_exported_graph_are_fixed(checkpoint, graph):
    openvino = pytest.importorskip("openvino")
    parameters = openvino.Core().read_model(graph).get_parameters()
    shapes = {p.get_friendly_name(): tuple(p.get_output_shape(0)) for p in parameters}
    assert shapes.pop(WINDOW_INPUT) == (1, 3, ROI, ROI)
    assert shapes == {name: checkpoint.entries[name].shape for name in shapes}


def test_members_may_be_started_before_the_first_is_waited_for(checkpoint, graph, inputs):
    members = [openvino_backend(checkpoint, graph) for _ in range(2)]
    started = [member.start(inputs) for member in members]
    first, second = (finish() for finish in started)
    np.testing.assert_array_equal(first, second)


# What accelerators compute


def test_folded_norms_change_logits_by_rounding_only(checkpoint, inputs):
    model = build_model(checkpoint).eval()
    n_norms = sum(isinstance(layer, torch.nn.BatchNorm2d) for layer in model.modules())
    folded = deepcopy(model)
    fold_norms(folded)
    # Only the norms of the two heads are left: convolutions with padding follow them.
    assert sum(isinstance(layer, torch.nn.BatchNorm2d) for layer in folded.modules()) == 2 < n_norms
    with torch.no_grad():
        expected, found = (net(torch.from_numpy(inputs)) for net in (model, folded))
    assert 0 < (found - expected).abs().max() <= 2e-6 * expected.abs().max()


@pytest.mark.parametrize("precision", [torch.bfloat16, torch.float16])
def test_weights_cast_once_give_the_bits_of_weights_cast_at_every_call(
    checkpoint, inputs, precision
):
    model = build_model(checkpoint).eval()
    halved = deepcopy(model)
    halve_weights(halved, precision)
    assert {weight.dtype for weight in halved.parameters()} == {torch.float32, precision}
    with torch.no_grad(), torch.autocast("cpu", precision):
        expected, found = (net(torch.from_numpy(inputs[:1])) for net in (model, halved))
    assert torch.equal(found, expected)


@pytest.mark.usefixtures("fake_cuda")
@pytest.mark.parametrize(
    ("device", "precision", "n_copies"),
    [(CPU, "float32", 0), (CPU, "bfloat16", 1), (Device("cuda", 0), "float32", 1),
     (Device("cuda", 0), "float16", 1)],
)  # fmt: skip
def test_a_network_is_copied_once_at_most_and_stays_as_it_is(
    checkpoint, monkeypatch, device, precision, n_copies
):
    model = build_model(checkpoint)
    before = {name: values.clone() for name, values in model.state_dict().items()}
    copied = []
    monkeypatch.setattr(
        "mediar_infer.network.backends.torch_backend.deepcopy",
        lambda network: copied.append(network) or deepcopy(network),
    )
    TorchBackend(model, device, precision)
    assert copied == [model] * n_copies
    after = model.state_dict()
    assert after.keys() == before.keys()
    assert all(torch.equal(after[name], before[name]) for name in before)
    assert {weight.dtype for weight in model.parameters()} == {torch.float32}


@pytest.mark.usefixtures("fake_cuda")
def test_float32_on_cuda_is_not_rounded_to_tf32_and_other_work_keeps_its_settings(
    checkpoint, inputs, monkeypatch
):
    cudnn, products, seen = torch.backends.cudnn, torch.backends.cuda.matmul, []
    monkeypatch.setattr(cudnn, "benchmark", True)
    backend = TorchBackend(build_model(checkpoint), Device("cuda", 0), "float32")
    forward = MediarFormer.forward

    def watched(self, windows):
        seen.append((cudnn.allow_tf32, products.allow_tf32, cudnn.benchmark))
        return forward(self, windows)

    monkeypatch.setattr(MediarFormer, "forward", watched)
    found = backend.start(torch.from_numpy(inputs))()
    assert seen == [(False, False, False)]
    assert (cudnn.allow_tf32, cudnn.benchmark) == (True, True)
    expected = TorchBackend(build_model(checkpoint), CPU, "float32").start(inputs)()
    assert np.abs(found.numpy() - expected).max() <= 2e-6 * np.abs(expected).max()


@pytest.mark.usefixtures("fake_cuda")
@pytest.mark.parametrize("precision", ["float16", "bfloat16"])
def test_half_types_on_cuda_stay_near_float32(checkpoint, inputs, precision):
    inputs = inputs[:1]
    exact = TorchBackend(build_model(checkpoint), CPU, "float32").start(inputs)()
    backend = TorchBackend(build_model(checkpoint), Device("cuda", 0), precision)
    rounded = backend.start(torch.from_numpy(inputs))()
    assert rounded.dtype == torch.float32
    assert 0 < np.abs(rounded.numpy() - exact).mean() <= 0.05 * np.abs(exact).mean()
