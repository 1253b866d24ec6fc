"""CZI files that Zeiss's library writes: labels as those of the same plane as TIFF."""

import numpy as np
import pytest
import tifffile

from mediar_infer.cli import main
from mediar_infer.demo.scenes import make_scene

czi = pytest.importorskip("pylibCZIrw.czi", reason="Zeiss's library is not installed")


def predict(image, outputs, *options):
    arguments = ["predict", "-i", str(image), "-o", str(outputs), "--plan", "fast", "--quiet"]
    assert main([*arguments, *options]) == 0
    with tifffile.TiffFile(outputs / f"{image.stem}_label.tiff") as tif:
        return tif.asarray(), tif.pages.first.get_resolution(tifffile.RESUNIT.MICROMETER)


@pytest.mark.parametrize("compression", ["uncompressed:", "zstd1:ExplicitLevel=2"])
def test_named_channel_gives_the_labels_of_its_plane_as_tiff(tmp_path, compression):
    cells = make_scene("fluorescence", 300, 400, 0)[0].astype(np.uint16)
    cells = (cells.max(axis=-1) if cells.ndim == 3 else cells) * 100
    path = tmp_path / "slide.czi"
    with czi.create_czi(str(path), compression_options=compression) as file:
        for number, image in enumerate((cells[::-1], cells)):
            file.write(np.ascontiguousarray(image)[..., None], plane={"C": number})
        file.write_metadata(
            "t", channel_names={0: "CD8", 1: "DAPI"}, scale_x=0.325e-6, scale_y=0.325e-6
        )
    tifffile.imwrite(tmp_path / "plane.tif", cells)
    found, resolution = predict(path, tmp_path / "out", "--channels", "DAPI")
    expected, _ = predict(tmp_path / "plane.tif", tmp_path / "out")
    assert expected.max() > 5
    np.testing.assert_array_equal(found, expected)
    np.testing.assert_allclose(resolution, (1 / 0.325, 1 / 0.325), rtol=1e-4)
