"""Jobs as grand-challenge.org gives them, and whether their labels are those of ``predict``.

python .ci/gc_trial.py make FOLDER      # FOLDER/{tiff,mha}/{input,output}, FOLDER/predict
python .ci/gc_trial.py compare FOLDER   # after the jobs and predict; 0 if all agree
"""

import json
import sys
from pathlib import Path

import numpy as np
import SimpleITK
import tifffile

from mediar_infer.demo.scenes import make_scene
from mediar_infer.labels.reading import read_labels

SLUG = "microscopy-image"
RESULT = Path("images/cell-instance-segmentation")
JOBS = {"tiff": ".tif", "mha": ".mha"}
"""Name of a job → extension of its image and labels."""


def write_job(folder: Path, image: Path) -> None:
    """Write the inputs of a job with a link to an image, and an empty folder for its results."""
    socket_dir = folder / "input" / "images" / SLUG
    socket_dir.mkdir(parents=True)
    (folder / "output").mkdir()
    (socket_dir / image.name).write_bytes(image.read_bytes())
    socket = {
        "slug": SLUG,
        "kind": "Image",
        "super_kind": "Image",
        "relative_path": f"images/{SLUG}",
    }
    value = {"socket": socket, "image": {"name": image.name}, "file": None, "value": None}
    (folder / "input" / "inputs.json").write_text(json.dumps([value]))


def make(folder: Path) -> None:
    """Make the jobs, and the same images for ``predict``."""
    images, outputs = folder / "predict" / "inputs", folder / "predict" / "outputs"
    for each in (images, outputs):
        each.mkdir(parents=True)
    pixels, _ = make_scene("fluorescence", 400, 480, seed=1)
    tifffile.imwrite(images / "tiff.tif", pixels)
    pixels, _ = make_scene("stained", 300, 360, seed=2)
    image = SimpleITK.GetImageFromArray(pixels, isVector=True)
    image.SetSpacing((0.5, 0.25))
    SimpleITK.WriteImage(image, str(images / "mha.mha"), useCompression=True)
    for name, suffix in JOBS.items():
        write_job(folder / name, images / f"{name}{suffix}")


def differences(folder: Path) -> list[str]:
    """What is not as it should be after the jobs and ``predict``."""
    found = []
    for name, suffix in JOBS.items():
        output, expected = folder / name / "output", RESULT / f"output{suffix}"
        files = sorted(path.relative_to(output) for path in output.rglob("*") if path.is_file())
        if files != [expected]:
            found.append(f"{output}: found {[str(path) for path in files]}, expected {expected}")
            continue
        theirs = folder / "predict" / "outputs" / f"{name}_label.tiff"
        ours = output / expected
        if suffix == ".mha":
            image = SimpleITK.ReadImage(str(ours))
            labels, wanted = SimpleITK.GetArrayFromImage(image), read_labels(theirs)
            same = labels.dtype == wanted.dtype and np.array_equal(labels, wanted)
            if image.GetSpacing() != (0.5, 0.25):
                found.append(
                    f"{ours}: found the spacing {image.GetSpacing()}, expected (0.5, 0.25)"
                )
        else:
            same = ours.read_bytes() == theirs.read_bytes()
        if not same:
            found.append(f"{ours}: differs from {theirs}")
        elif not read_labels(theirs).any():
            found.append(f"{theirs}: found no cell, so that the comparison says nothing")
    return found


def main() -> int:
    """Make jobs or compare their results; see the top of this file."""
    step, folder = sys.argv[1], Path(sys.argv[2])
    if step == "make":
        make(folder)
        return 0
    found = differences(folder)
    sys.stdout.writelines(f"{line}\n" for line in found or ["labels are those of predict"])
    return 1 if found else 0


if __name__ == "__main__":
    raise SystemExit(main())
