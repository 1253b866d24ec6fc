"""What napari makes of label files, as JSON; to be run in its environment with their paths."""

import json
import sys

import numpy as np
from napari.components import ViewerModel
from napari.plugins import _initialize_plugins

_initialize_plugins()


def describe(path):
    """Kind, scale and unit of the layer, and pixel (1, 1)."""
    (layer,) = ViewerModel().open(path, plugin="napari")
    return {
        "kind": type(layer).__name__,
        "scale": list(layer.scale),
        "units": [str(unit) for unit in layer.units],
        "value": int(np.asarray(layer.data)[1, 1]),
    }


sys.stdout.write(json.dumps([describe(path) for path in sys.argv[1:]]) + "\n")
