"""Generated images that the menu File > Open Sample shows."""

from typing import Any, Final

from mediar_infer.demo.scenes import SceneKind, make_scene

LayerData = tuple[Any, dict[str, Any], str]
"""Array, settings and kind of a layer, as napari takes them."""

_SIZE: Final = 512
_SEED: Final = 0
_PIXEL_UM: Final = 0.325


def make_nuclei() -> list[LayerData]:
    """Draw bright nuclei on a dark field, ``(512, 512)`` uint16."""
    return [_make_layer("fluorescence", "nuclei")]


def make_tissue() -> list[LayerData]:
    """Draw stained tissue, ``(512, 512, 3)`` uint8 RGB."""
    return [_make_layer("stained", "tissue")]


def _make_layer(kind: SceneKind, name: str) -> LayerData:
    image, _ = make_scene(kind, _SIZE, _SIZE, _SEED)
    settings = {"name": name, "scale": (_PIXEL_UM, _PIXEL_UM), "units": ("um", "um")}
    return image, settings, "image"
