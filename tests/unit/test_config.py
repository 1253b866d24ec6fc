"""Settings refuse what cannot work, and say what would."""

import json
from dataclasses import FrozenInstanceError, asdict

import numpy as np
import pytest

from mediar_infer.config import (
    ALL_FLIPS,
    PLANS,
    EngineConfig,
    MaskConfig,
    Plan,
    RuntimeConfig,
    parse_flow_threshold,
    parse_scale,
)
from mediar_infer.errors import UsageError
from mediar_infer.images.limits import ReadOptions

NAN = float("nan")


def test_defaults_are_those_of_the_paper():
    config = EngineConfig()
    assert config.plan == PLANS["paper"] == Plan()
    assert config.plan.flips == ("identity", "horizontal", "vertical")
    assert (config.plan.max_members, config.plan.overlap, config.roi_size) == (2, 0.6, 512)
    masks = config.masks
    assert (masks.cellprob_threshold, masks.min_size) == (0.5, 16)
    assert (masks.max_flow_error, masks.max_fraction) == (0.4, 0.9)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"max_members": 0}, "found 0 models, expected 1 or more"),
        ({"overlap": -0.1}, "found overlap -0.1, expected 0 to 0.95"),
        ({"overlap": 1.0}, "found overlap 1.0"),
        ({"overlap": NAN}, "found overlap nan"),
        ({"flips": ()}, r"found flips \(\), expected one or more"),
        ({"flips": ("identity", "identity")}, "each once"),
        ({"flips": ("diagonal",)}, r"found flips \['diagonal'\], expected some of"),
    ],
)
def test_plan_refuses(fields, message):
    with pytest.raises(UsageError, match=message):
        Plan(**fields)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"cellprob_threshold": 0.0}, "found cell-probability threshold 0.0, expected 0 to 1"),
        ({"cellprob_threshold": 1.0}, "threshold 1.0"),
        ({"cellprob_threshold": NAN}, "threshold nan"),
        ({"min_size": -1}, "found minimum size -1, expected 0 or more"),
        ({"flow_threshold": -0.1}, "found flow threshold -0.1, expected a finite number, 0"),
        ({"flow_threshold": float("inf")}, "threshold inf, .*; use none to keep all cells"),
        ({"flow_threshold": NAN}, "found flow threshold nan"),
        ({"flow_threshold": "low"}, "found flow threshold low, expected a finite number"),
        ({"max_fraction": 0.0}, "found largest fraction 0.0, expected above 0 and up to 1"),
        ({"max_fraction": 1.01}, "found largest fraction 1.01"),
        ({"max_fraction": NAN}, "found largest fraction nan"),
        ({"block_size": 63}, "found block size 63, expected 64 or more, or 0"),
        ({"block_size": -1}, "found block size -1"),
        ({"blocks": "tiles"}, "found blocks 'tiles', expected auto, paper or stitched"),
    ],
)
def test_masks_refuse(fields, message):
    with pytest.raises(UsageError, match=message):
        MaskConfig(**fields)


@pytest.mark.parametrize(
    ("text", "value"), [("0.5", 0.5), (" auto ", "auto"), ("none", None), ("off", None)]
)
def test_flow_threshold_is_read_from_text(text, value):
    assert parse_flow_threshold(text) == value


def test_text_that_is_no_flow_threshold_is_named():
    with pytest.raises(UsageError, match="found flow threshold 'much', expected a number, auto or"):
        parse_flow_threshold("much")


@pytest.mark.parametrize(
    ("given", "stated", "limit"),
    [("auto", 0.55, 0.55), ("auto", 0.0, 0.0), ("auto", None, 0.4), (0.3, 0.55, 0.3),
     (None, 0.55, None)],
)  # fmt: skip
def test_weights_decide_the_flow_threshold_only_where_it_is_left_to_them(given, stated, limit):
    masks = MaskConfig(flow_threshold=given, min_size=5).for_weights(stated)
    assert masks == MaskConfig(flow_threshold=limit, min_size=5)
    assert masks.max_flow_error == limit


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"batch": -1}, "found batch -1, expected 0"),
        ({"threads": -2}, "found -2 threads, expected 0"),
        ({"precision": "half"}, "found precision 'half', expected one of auto, float32, float16"),
        ({"backend": "onnx"}, "found backend 'onnx', expected one of auto, torch, openvino"),
    ],
)
def test_runtime_refuses(fields, message):
    with pytest.raises(UsageError, match=message):
        RuntimeConfig(**fields)


@pytest.mark.parametrize("roi_size", [0, 31, 33, 500, -32, 512.0])
def test_window_size_must_be_a_multiple_of_32(roi_size):
    with pytest.raises(
        UsageError, match=f"found window size {roi_size}, expected a multiple of 32"
    ):
        EngineConfig(roi_size=roi_size)


@pytest.mark.parametrize("seconds", [-1.0, float("nan"), float("inf")])
def test_seconds_outside_the_process_are_finite_and_not_negative(seconds):
    with pytest.raises(UsageError, match=f"found {seconds} s outside the process, expected 0 or"):
        EngineConfig(fit_budget=0.85, outside_s=seconds)


@pytest.mark.parametrize("scale", [0, -0.1, 1.01, NAN])
def test_budget_scale_is_a_fraction_of_the_tolerance(scale):
    with pytest.raises(UsageError, match=f"found budget scale {scale}, expected above 0 and up to"):
        EngineConfig(fit_budget=scale)


def test_no_budget_is_the_default():
    assert EngineConfig().fit_budget is None
    assert EngineConfig(fit_budget=1).fit_budget == 1


@pytest.mark.parametrize("overlap", [0, 0.25, 0.95])
@pytest.mark.parametrize("flips", [ALL_FLIPS, ("vertical",)])
def test_limits_themselves_are_accepted(overlap, flips):
    assert Plan(overlap=overlap, flips=flips).overlap == overlap
    assert MaskConfig(block_size=64, flow_threshold=None).flow_threshold is None
    assert MaskConfig(min_size=0, flow_threshold=0, max_fraction=1).max_fraction == 1
    assert EngineConfig(roi_size=32).roi_size == 32


def test_named_plans_bear_their_names():
    assert {name: plan.name for name, plan in PLANS.items()} == {name: name for name in PLANS}
    assert PLANS["paper"] == EngineConfig().plan


def test_cheaper_plans_compute_less():
    def cost(plan):
        return plan.max_members * len(plan.flips) / (1 - plan.overlap) ** 2

    assert cost(PLANS["paper"]) > cost(PLANS["single"]) > cost(PLANS["fast"])


def test_settings_cannot_be_changed_or_misspelt():
    with pytest.raises(FrozenInstanceError):
        Plan().overlap = 0.5
    with pytest.raises(TypeError):
        MaskConfig(min_sise=3)


@pytest.mark.parametrize(("text", "scale"), [("2", 2), (" 0.5 ", 0.5), ("auto", "auto")])
def test_scales_are_read(text, scale):
    assert parse_scale(text) == scale


@pytest.mark.parametrize("text", ["", "twice", "2x"])
def test_no_scale_is_refused(text):
    with pytest.raises(UsageError, match=f"found scale {text!r}, expected a number or auto"):
        parse_scale(text)


@pytest.mark.parametrize(
    "settings",
    [
        lambda: MaskConfig(np.float32(0.25), np.int64(20), np.float32(0.5), fill_holes=np.True_),
        lambda: Plan(max_members=np.int8(1), overlap=np.float16(0.5)),
        lambda: EngineConfig(roi_size=np.int64(256), scale=np.float32(2)),
        lambda: RuntimeConfig(batch=np.uint8(3)),
        lambda: ReadOptions(plane=np.int64(2), scene=np.int64(1)),
    ],
)
def test_numbers_of_numpy_become_those_of_python(settings):
    json.dumps(asdict(settings()))  # as ledgers and label files are written
