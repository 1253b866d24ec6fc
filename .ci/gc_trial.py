"""Jobs as grand-challenge.org starts them, and a comparison of their labels with ``predict``.

python .ci/gc_trial.py make FOLDER      # FOLDER/{tiff,mha}/{input,output}, FOLDER/predict
python .ci/gc_trial.py compare FOLDER   # after the jobs and predict; 0 if all agree
"""

import json
import sys
import zlib
from pathlib import Path

import numpy as np
import numpy.typing as npt
import tifffile

from mediar_infer.demo.scenes import make_scene
from mediar_infer.labels.reading import read_labels

SLUG = "generic-medical-image"
"""Socket of the platform; its images lie at the input folder itself."""
RESULT = Path("images")
SPACING = (0.5, 0.25)
JOBS = {"tiff": ".tif", "mha": ".mha"}
"""Name of a job → extension of its image and labels."""


def write_job(folder: Path, image: Path) -> None:
    """Write the inputs of a job with a link to an image, and an empty folder for its results."""
    (folder / "input").mkdir(parents=True)
    (folder / "output").mkdir()
    (folder / "input" / image.name).write_bytes(image.read_bytes())
    socket = {"slug": SLUG, "kind": "Image", "super_kind": "Image", "relative_path": ""}
    value = {"socket": socket, "image": {"name": image.name}, "file": None, "value": None}
    (folder / "input" / "inputs.json").write_text(json.dumps([value]))


def write_mha(path: Path, pixels: npt.NDArray[np.uint8]) -> None:
    """Write a colour image with its spacing."""
    height, width, n_channels = pixels.shape
    header = {
        "ObjectType": "Image", "NDims": 2, "BinaryData": True, "BinaryDataByteOrderMSB": False,
        "ElementSpacing": f"{SPACING[0]} {SPACING[1]}", "DimSize": f"{width} {height}",
        "ElementNumberOfChannels": n_channels, "ElementType": "MET_UCHAR_ARRAY",
        "ElementDataFile": "LOCAL",
    }  # fmt: skip
    text = "".join(f"{key} = {value}\n" for key, value in header.items())
    path.write_bytes(text.encode("ascii") + pixels.tobytes())


def read_mha(path: Path) -> tuple[npt.NDArray[np.integer], tuple[float, ...]]:
    """Read compressed labels and their spacing, without the code that wrote them."""
    head, _, data = path.read_bytes().partition(b"ElementDataFile = LOCAL\n")
    header = dict(line.split(" = ", 1) for line in head.decode("ascii").splitlines())
    dtype = {"MET_USHORT": "<u2", "MET_UINT": "<u4"}[header["ElementType"]]
    width, height = map(int, header["DimSize"].split())
    labels = np.frombuffer(zlib.decompress(data), dtype).reshape(height, width)
    return labels, tuple(float(mm) for mm in header["ElementSpacing"].split())


def make(folder: Path) -> None:
    """Make the jobs, and the same images for ``predict``."""
    images, outputs = folder / "predict" / "inputs", folder / "predict" / "outputs"
    for made in (images, outputs, folder / "foreign-output"):
        made.mkdir(parents=True)
    pixels, _ = make_scene("fluorescence", 400, 480, seed=1)
    tifffile.imwrite(images / "tiff.tif", pixels)
    pixels, _ = make_scene("stained", 300, 360, seed=2)
    write_mha(images / "mha.mha", pixels)
    for name, suffix in JOBS.items():
        write_job(folder / name, images / f"{name}{suffix}")


def differences(folder: Path) -> list[str]:
    """Return what is wrong after the jobs and ``predict``."""
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
            labels, spacing = read_mha(ours)
            wanted = read_labels(theirs)
            same = labels.dtype == wanted.dtype and np.array_equal(labels, wanted)
            if spacing != SPACING:
                found.append(f"{ours}: found the spacing {spacing}, expected {SPACING}")
        else:
            same = ours.read_bytes() == theirs.read_bytes()
        if not same:
            found.append(f"{ours}: differs from {theirs}")
        elif not read_labels(theirs).any():
            found.append(f"{theirs}: found no cell, expected some, else nothing is compared")
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
