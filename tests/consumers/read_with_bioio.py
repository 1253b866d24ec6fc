"""What bioio makes of label files, as JSON; to be run in its environment with their paths."""

import json
import sys

from bioio import BioImage


def describe(path):
    """Reader, pixel size, names of the channels, and pixel (1, 1)."""
    image = BioImage(path)
    size = image.physical_pixel_sizes
    return {
        "reader": type(image.reader).__module__.partition(".")[0],
        "size": [size.Y, size.X],
        "channels": [str(name) for name in image.channel_names],
        "shape": list(image.shape),
        "value": int(image.data[0, 0, 0, 1, 1]),
    }


sys.stdout.write(json.dumps([describe(path) for path in sys.argv[1:]]) + "\n")
