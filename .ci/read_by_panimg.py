"""What the importer of grand-challenge.org makes of a folder of results, as JSON.

python .ci/read_by_panimg.py FOLDER   # in an environment with panimg, which has no place in ours:
                                      # it depends on a package under the GPL
"""

import json
import sys
import tempfile
from pathlib import Path

import panimg


def main() -> int:
    """Print each image with its size and pixel size; 1 if a file is refused."""
    with tempfile.TemporaryDirectory() as folder:
        # The further steps of the platform make previews, by a library of the system.
        result = panimg.convert(
            input_directory=Path(sys.argv[1]), output_directory=Path(folder), post_processors=[]
        )
    images = {
        image.name: {
            "height": image.height,
            "width": image.width,
            "pixel_size_mm": [image.voxel_height_mm, image.voxel_width_mm],
            "colour": image.color_space,
        }
        for image in result.new_images
    }
    # A builder also reports the files of the others.
    refused = {
        path.name: messages
        for path, messages in result.file_errors.items()
        if path not in result.consumed_files
    }
    sys.stdout.write(json.dumps({"images": images, "refused": refused}, indent=2) + "\n")
    return 1 if refused else 0


if __name__ == "__main__":
    raise SystemExit(main())
