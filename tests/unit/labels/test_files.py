"""Label files hold exactly the bands that were given, or do not exist."""

import errno
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import cv2
import imagecodecs
import numpy as np
import pytest
import tifffile

from mediar_infer.errors import ImageReadError, OutputError, ShapeError
from mediar_infer.images.geometry import Geometry
from mediar_infer.labels import files as label_files
from mediar_infer.labels.files import (
    LabelHeader,
    read_label_header,
    write_labels,
)
from mediar_infer.labels.reading import read_labels
from mediar_infer.output_files import remove_stale_parts


def bands_of(labels, heights):
    """Rows of ``labels`` in bands whose heights repeat ``heights``."""
    top, k = 0, 0
    while top < len(labels):
        yield labels[top : top + heights[k % len(heights)]]
        top += heights[k % len(heights)]
        k += 1


def write(path, labels, heights=(10**9,)):
    write_labels(path, bands_of(labels, heights), height=labels.shape[0], width=labels.shape[1])


def test_header_of_a_file_of_release_0_1_0_is_read():
    path = Path(__file__).parents[2] / "golden" / "label_0_1_0.tiff"
    facts = {
        "mediar_infer": "0.1.0", "image": "a.png", "image_bytes": 1234,
        "plan": {"name": "paper", "models": 2}, "weights": {"a.safetensors": "00"},
    }  # fmt: skip
    assert read_label_header(path) == LabelHeader(12, 16, 2, facts)
    assert [*np.bincount(read_labels(path).ravel())] == [153, 15, 24]


@pytest.mark.parametrize("dtype", [np.int32, np.uint32, np.int64])
def test_whole_image_in_one_band_is_uint16_and_readable_by_others(tmp_path, rng, dtype):
    labels = rng.integers(0, 65_536, (301, 203)).astype(dtype)
    write(tmp_path / "a_label.tiff", labels)

    read = read_labels(tmp_path / "a_label.tiff")
    assert read.dtype == np.uint16
    np.testing.assert_array_equal(read, labels)
    np.testing.assert_array_equal(tifffile.imread(tmp_path / "a_label.tiff"), labels)
    by_opencv = cv2.imread(str(tmp_path / "a_label.tiff"), cv2.IMREAD_UNCHANGED)
    np.testing.assert_array_equal(by_opencv, labels)


def test_70000_cells_are_kept_apart_in_uint32(tmp_path):
    labels = np.arange(1, 70_001, dtype=np.int32).reshape(250, 280)
    write(tmp_path / "a_label.tiff", labels)

    read = read_labels(tmp_path / "a_label.tiff")
    assert read.dtype == np.uint32
    assert len(np.unique(read)) == 70_000


def test_several_bands_are_uint32_since_the_number_of_cells_to_come_is_unknown(tmp_path):
    labels = np.ones((30, 20), np.int32)
    write(tmp_path / "a_label.tiff", labels, heights=(10,))
    assert read_labels(tmp_path / "a_label.tiff").dtype == np.uint32


def _resolution_of(path):
    """Pixels per unit along x and y, and the unit."""
    with tifffile.TiffFile(path) as tif:
        tags = tif.pages.first.tags
        along = [n / d for n, d in (tags["XResolution"].value, tags["YResolution"].value)]
        return along, tags["ResolutionUnit"].value.name


def _geometry(*spacing):
    n = len(spacing)
    return Geometry(spacing, (0.0,) * n, tuple(np.eye(n).ravel()))


@pytest.mark.parametrize(
    "spacing", [(0.0005, 0.00025), (0.25e-3 / 3, 2.0, 5.0), (1e-9, 4e8), (1e-7, 123.456), (10, 10)]
)
def test_spacing_of_the_image_becomes_pixels_per_centimetre(tmp_path, spacing):
    path = tmp_path / "a_label.tiff"
    labels = np.ones((5, 4), np.int32)
    write_labels(path, [labels], height=5, width=4, geometry=_geometry(*spacing))
    expected = [min(10 / mm, 2**32 - 1) for mm in spacing[:2]]
    assert _resolution_of(path) == (pytest.approx(expected, rel=1e-9), "CENTIMETER")
    np.testing.assert_array_equal(read_labels(path), labels)


@pytest.mark.parametrize("spacing", [None, (0.0, 1.0), (2.0, -1.0), (np.nan, 1.0), (2.0, np.inf)])
def test_pixels_of_unknown_size_are_72_dpi_which_is_no_size(tmp_path, spacing):
    path = tmp_path / "a_label.tiff"
    geometry = None if spacing is None else _geometry(*spacing)
    write_labels(path, [np.ones((5, 4), "i4")], height=5, width=4, geometry=geometry)
    assert _resolution_of(path) == ([72, 72], "INCH")
    assert "PhysicalSize" not in tifffile.tiffcomment(path)


@pytest.mark.parametrize("spacing", [(1e-300, 1e300), (5e-324, 1e308), (1e-12, 1e12)])
def test_spacing_beyond_what_tiff_can_hold_becomes_the_nearest(tmp_path, spacing):
    path = tmp_path / "a_label.tiff"
    write_labels(path, [np.ones((5, 4), "i4")], height=5, width=4, geometry=_geometry(*spacing))
    assert _resolution_of(path) == ([2**32 - 1, 1 / (2**32 - 1)], "CENTIMETER")


@pytest.mark.parametrize("dpi", [72, 96, 300, 25.4])
def test_dots_per_inch_that_are_no_size_are_passed_on_as_such(tmp_path, dpi):
    path = tmp_path / "a_label.tiff"
    geometry = Geometry((25.4 / dpi, 25.4 / dpi), is_measured=False)
    write_labels(path, [np.ones((5, 4), "i4")], height=5, width=4, geometry=geometry)
    assert _resolution_of(path) == ([dpi, dpi], "INCH")
    assert "PhysicalSize" not in tifffile.tiffcomment(path)


@pytest.mark.parametrize("facts", [None, {"image": "<a & b>ä\n]]>.png"}])
@pytest.mark.parametrize(("height", "pixel_type"), [(4, "uint16"), (8, "uint32")])
def test_description_is_ome_xml_that_states_the_size_exactly(tmp_path, facts, height, pixel_type):
    path = tmp_path / "a_label.tiff"
    labels = np.ones((height, 5), np.int32)
    geometry = _geometry(0.325e-3, 0.65e-3)
    write_labels(
        path, bands_of(labels, [4]), height=height, width=5, geometry=geometry, facts=facts
    )
    with tifffile.TiffFile(path) as tif:
        assert tif.is_ome
        assert (tif.series[0].axes, tif.series[0].shape) == ("YX", (height, 5))
        pixels = tifffile.xml2dict(tif.ome_metadata)["OME"]["Image"]["Pixels"]
    assert (pixels["PhysicalSizeX"], pixels["PhysicalSizeY"]) == (0.325, 0.65)
    assert (pixels["PhysicalSizeXUnit"], pixels["PhysicalSizeYUnit"]) == ("µm", "µm")
    assert (pixels["Type"], pixels["SizeX"], pixels["SizeY"]) == (pixel_type, 5, height)
    assert read_label_header(path).facts == (facts or {})
    np.testing.assert_array_equal(tifffile.imread(path), labels)
    np.testing.assert_array_equal(cv2.imread(str(path), cv2.IMREAD_UNCHANGED)[..., :], labels)


@pytest.mark.parametrize(
    "text",
    [
        "<OME>mediar-infer/provenance",
        "<OME xmlns='mediar-infer/provenance'/>",
        "<OME><CommentAnnotation Namespace='mediar-infer/provenance'/></OME>",
        "<OME><CommentAnnotation Namespace='mediar-infer/provenance'><Value>[1]</Value>"
        "</CommentAnnotation></OME>",
    ],
)
def test_broken_description_gives_no_facts(tmp_path, text):
    path = tmp_path / "a_label.tiff"
    tifffile.imwrite(path, np.zeros((3, 4), np.uint8), description=text, metadata=None)
    assert read_label_header(path) == LabelHeader(3, 4, None, {})


@pytest.mark.parametrize("heights", [(1,), (7,), (300,), (1, 7, 300), (256,), (10**9,)])
@pytest.mark.parametrize("is_tiled", [False, True])
def test_bands_of_any_height_give_the_same_file(tmp_path, monkeypatch, rng, heights, is_tiled):
    monkeypatch.setattr(label_files, "TILED_FROM_PIXELS", 0 if is_tiled else 10**9)
    monkeypatch.setattr(label_files, "_STRIP_BYTES", 11 * 517 * 4)
    labels = rng.integers(0, 100_000, (613, 517)).astype(np.uint32)
    write(tmp_path / "a_label.tiff", labels, heights)

    with tifffile.TiffFile(tmp_path / "a_label.tiff") as tif:
        assert tif.pages[0].is_tiled == is_tiled
        assert tif.pages[0].compression == 8
        np.testing.assert_array_equal(tif.asarray(), labels)


@pytest.mark.parametrize("shape", [(1, 1), (1, 999), (999, 1), (31, 2000)])
@pytest.mark.parametrize("is_tiled", [False, True])
def test_awkward_shapes_are_kept(tmp_path, monkeypatch, shape, is_tiled):
    monkeypatch.setattr(label_files, "TILED_FROM_PIXELS", 0 if is_tiled else 10**9)
    labels = np.arange(np.prod(shape), dtype=np.int32).reshape(shape)
    write(tmp_path / "a_label.tiff", labels)
    np.testing.assert_array_equal(read_labels(tmp_path / "a_label.tiff"), labels)


def test_large_images_are_tiled_and_huge_ones_bigtiff(tmp_path, monkeypatch):
    write(tmp_path / "a_label.tiff", np.zeros((5000, 5000), np.uint8))
    with tifffile.TiffFile(tmp_path / "a_label.tiff") as tif:
        assert tif.pages[0].tile == (256, 256)
        assert not tif.is_bigtiff
    assert (tmp_path / "a_label.tiff").stat().st_size < 10**6

    monkeypatch.setattr(label_files, "_BIGTIFF_FROM_BYTES", 1000)
    write(tmp_path / "b_label.tiff", np.ones((50, 50), np.uint8))
    with tifffile.TiffFile(tmp_path / "b_label.tiff") as tif:
        assert tif.is_bigtiff
    assert read_labels(tmp_path / "b_label.tiff").sum() == 2500


def test_bands_may_reuse_their_memory_and_are_not_modified(tmp_path):
    labels = np.arange(600, dtype=np.int32).reshape(60, 10)
    buffer = np.empty((7, 10), np.int32)

    def reusing():
        for top in range(0, 60, 7):
            rows = labels[top : top + 7]
            buffer[: len(rows)] = rows
            yield buffer[: len(rows)]
            np.testing.assert_array_equal(buffer[: len(rows)], rows)

    write_labels(tmp_path / "a_label.tiff", reusing(), height=60, width=10)
    np.testing.assert_array_equal(read_labels(tmp_path / "a_label.tiff"), labels)


@pytest.mark.parametrize("is_tiled", [False, True])
def test_bands_are_written_as_they_come(tmp_path, monkeypatch, rng, is_tiled):
    monkeypatch.setattr(label_files, "TILED_FROM_PIXELS", 0 if is_tiled else 10**9)
    written = []

    def watching():
        for _ in range(40):
            (part,) = tmp_path.iterdir()
            written.append(part.stat().st_size)
            yield rng.integers(0, 2**32, (100, 300), np.uint32)

    write_labels(tmp_path / "a_label.tiff", watching(), height=4000, width=300)
    band_bytes = 100 * 300 * 4
    for k, n_bytes in enumerate(written):
        assert n_bytes > (k - 5) * band_bytes


class Stopped(Exception):
    pass


@pytest.mark.parametrize("error", [Stopped(), OSError(errno.EIO, "camera gone"), SystemExit(3)])
@pytest.mark.parametrize("n_bands", [0, 1, 5])
def test_failure_of_the_bands_leaves_nothing_and_passes_unchanged(tmp_path, error, n_bands):
    def failing():
        for _ in range(n_bands):
            yield np.ones((100, 300), np.int32)
        raise error

    with pytest.raises(type(error)) as caught:
        write_labels(tmp_path / "a_label.tiff", failing(), height=1000, width=300)
    assert caught.value is error
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("bands", "error", "text"),
    [
        ([], ShapeError, "found 0 rows of labels, expected 10"),
        ([np.ones((9, 5), int)], ShapeError, "found 9 rows of labels, expected 10"),
        ([np.ones((11, 5), int)], ShapeError, r"band of shape \(11, 5\) at row 0"),
        ([np.ones((5, 5), int), np.ones((6, 5), int)], ShapeError, r"\(6, 5\) at row 5"),
        ([np.ones((10, 4), int)], ShapeError, r"expected \(rows, 5\) within 10 rows"),
        ([np.ones(5, int)], ShapeError, r"band of shape \(5,\)"),
        ([np.ones((10, 5))], OutputError, "labels of type float64, expected integers"),
        ([np.full((10, 5), -1)], OutputError, "labels from -1 to -1, expected 0 to"),
        ([np.full((10, 5), 2**32)], OutputError, "to 4294967296, expected 0 to"),
    ],
)
def test_wrong_bands_are_refused_and_leave_nothing(tmp_path, bands, error, text):
    with pytest.raises(error, match=f"a_label.tiff: .*{text}"):
        write_labels(tmp_path / "a_label.tiff", bands, height=10, width=5)
    assert list(tmp_path.iterdir()) == []


def test_failed_writing_keeps_the_earlier_file(tmp_path):
    write(tmp_path / "a_label.tiff", np.ones((4, 4), int))
    with pytest.raises(ShapeError):
        write_labels(tmp_path / "a_label.tiff", [], height=10, width=5)
    assert read_labels(tmp_path / "a_label.tiff").sum() == 16
    write(tmp_path / "a_label.tiff", np.zeros((2, 2), int))
    assert read_labels(tmp_path / "a_label.tiff").shape == (2, 2)
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize("n_rows", [100, 3000])
def test_full_disk_is_an_output_error_and_leaves_nothing(tmp_path, n_rows):
    script = f"""
import resource, sys
from pathlib import Path
import numpy as np
from mediar_infer.errors import OutputError
from mediar_infer.labels.files import write_labels
noise = np.random.default_rng(0).integers(0, 2**31, ({n_rows}, 500))
resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))
try:
    write_labels(Path(sys.argv[1]), iter(np.split(noise, 10)), height={n_rows}, width=500)
except OutputError as exc:
    print(exc)
"""
    command = [sys.executable, "-c", script, tmp_path / "a_label.tiff"]
    found = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "a_label.tiff: " in found.stdout
    assert "File too large" in found.stdout
    assert found.stderr == ""
    assert list(tmp_path.iterdir()) == []


def test_no_space_at_the_last_moment_leaves_nothing(tmp_path, monkeypatch):
    def full(descriptor):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OutputError, match=r"a_label.tiff: .*No space left on device.*free"):
        write(tmp_path / "a_label.tiff", np.ones((4, 4), int))
    assert list(tmp_path.iterdir()) == []


WRITE_WITHOUT_RIGHTS = """
import os, sys
from pathlib import Path
import numpy as np
from mediar_infer.errors import OutputError
from mediar_infer.labels.files import write_labels
if os.getuid() == 0:  # root may write everywhere
    os.setgid(65534)
    os.setuid(65534)
for path in sys.argv[1:]:
    try:
        write_labels(Path(path), [np.ones((4, 4), int)], height=4, width=4)
    except OutputError as exc:
        print(exc)
"""


def test_folder_without_rights_is_an_output_error():
    with tempfile.TemporaryDirectory() as name:  # tmp_path lies in a folder closed to others
        Path(name).chmod(0o755)
        paths = [Path(name) / folder / "a_label.tiff" for folder in ("read_only", "locked")]
        paths[0].parent.mkdir(0o555)
        paths[1].parent.mkdir(0)
        command = [sys.executable, "-c", WRITE_WITHOUT_RIGHTS, *paths]
        found = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        for path in paths:
            path.parent.chmod(0o700)
            assert list(path.parent.iterdir()) == []

    for path, line in zip(paths, found.splitlines(), strict=True):
        assert line.startswith(f"{path}: ")
        assert "Permission denied" in line


def test_folder_in_place_of_the_file_and_too_long_names_are_output_errors(tmp_path):
    (tmp_path / "a_label.tiff").mkdir()
    with pytest.raises(OutputError, match="Is a directory"):
        write(tmp_path / "a_label.tiff", np.ones((4, 4), int))
    with pytest.raises(OutputError, match="File name too long"):
        write(tmp_path / f"{'a' * 250}_label.tiff", np.ones((4, 4), int))
    assert [path.name for path in tmp_path.iterdir()] == ["a_label.tiff"]


@pytest.mark.parametrize("letter", ["a", "é", "細"])
def test_names_up_to_the_limit_of_the_file_system_work(tmp_path, letter):
    stem = letter * ((255 - len("_label.tiff")) // len(letter.encode()))
    write(tmp_path / f"{stem}_label.tiff", np.ones((4, 4), int))
    assert read_labels(tmp_path / f"{stem}_label.tiff").shape == (4, 4)


WRITE_FOREVER = """
import sys
from pathlib import Path
import numpy as np
from mediar_infer.labels.files import write_labels
def bands():
    for k in range(10**6):
        if k == 20:
            print("writing", flush=True)
            sys.stdin.read()
        yield np.ones((100, 100), np.uint32)
write_labels(Path(sys.argv[1]), bands(), height=10**8, width=100)
"""


def test_parts_of_a_killed_process_are_removed_and_those_of_a_living_one_stay(tmp_path):
    command = [sys.executable, "-c", WRITE_FOREVER, tmp_path / "a_label.tiff"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout.readline() == b"writing\n"
        (part,) = tmp_path.iterdir()
        assert part.name == f".a_label.tiff.{process.pid}.part"
        assert remove_stale_parts(tmp_path) == []
        process.send_signal(signal.SIGKILL)
        process.wait()
    (tmp_path / ".mine.part").touch()
    (tmp_path / "a.1.part").touch()

    assert part.exists()
    assert remove_stale_parts(tmp_path) == [part]
    assert sorted(path.name for path in tmp_path.iterdir()) == [".mine.part", "a.1.part"]


def test_no_stale_parts_in_a_folder_that_does_not_exist(tmp_path):
    assert remove_stale_parts(tmp_path / "nowhere") == []


def test_missing_output_folder_is_made(tmp_path):
    write(tmp_path / "deep" / "er" / "a_label.tiff", np.ones((4, 4), int))
    assert read_labels(tmp_path / "deep" / "er" / "a_label.tiff").shape == (4, 4)


def test_labels_are_read_from_other_programs(tmp_path):
    labels = np.arange(1200, dtype=np.uint16).reshape(30, 40)
    (tmp_path / "a.png").write_bytes(imagecodecs.png_encode(labels))
    tifffile.imwrite(tmp_path / "a.tif", labels.astype(np.float32), imagej=True)
    tifffile.imwrite(tmp_path / "b.tif", labels[None, None], photometric="minisblack")
    tifffile.imwrite(tmp_path / "c.tif", labels > 5)

    np.testing.assert_array_equal(read_labels(tmp_path / "a.png"), labels)
    np.testing.assert_array_equal(read_labels(tmp_path / "a.tif"), labels)
    np.testing.assert_array_equal(read_labels(tmp_path / "b.tif"), labels)
    np.testing.assert_array_equal(read_labels(tmp_path / "c.tif"), labels > 5)
    assert read_labels(tmp_path / "a.tif").dtype == np.int64
    assert read_labels(tmp_path / "c.tif").dtype == np.uint8


def test_files_that_hold_no_labels_are_refused(tmp_path):
    image = np.full((20, 20), 0.5, np.float32)
    tifffile.imwrite(tmp_path / "a.tif", image)
    with pytest.raises(ImageReadError, match=r"a.tif: found .*float32, expected one \(H, W\)"):
        read_labels(tmp_path / "a.tif")
    colours = np.arange(1200).reshape(20, 20, 3).astype(np.uint8)
    tifffile.imwrite(tmp_path / "b.tif", colours, photometric="rgb")
    with pytest.raises(ImageReadError, match=r"array of shape \(20, 20, 3\)"):
        read_labels(tmp_path / "b.tif")
    (tmp_path / "c.jpg").write_bytes(imagecodecs.jpeg8_encode(np.zeros((20, 20), np.uint8)))
    with pytest.raises(ImageReadError, match="found JPEG, which changes the numbers"):
        read_labels(tmp_path / "c.jpg")
    with pytest.raises(ImageReadError, match=r"gone.tif: .*No such file"):
        read_labels(tmp_path / "gone.tif")


def test_truncated_labels_are_refused(tmp_path):
    write(tmp_path / "a_label.tiff", np.arange(10_000).reshape(100, 100))
    data = (tmp_path / "a_label.tiff").read_bytes()
    (tmp_path / "a_label.tiff").write_bytes(data[: len(data) // 2])
    with pytest.raises(ImageReadError, match=r"a_label.tiff: "):
        read_labels(tmp_path / "a_label.tiff")


def test_real_labels_are_read(cells_dir):
    for path in sorted((cells_dir / "labels").iterdir())[:3]:
        np.testing.assert_array_equal(read_labels(path), tifffile.imread(path))


@pytest.mark.slow
def test_large_labels_are_written_in_bounded_time(tmp_path):
    labels = np.kron(np.arange(40_000, dtype=np.uint32).reshape(200, 200), np.ones((30, 30), int))
    start = time.perf_counter()
    write(tmp_path / "a_label.tiff", labels, heights=(204,))
    assert time.perf_counter() - start < 10
    np.testing.assert_array_equal(read_labels(tmp_path / "a_label.tiff"), labels)


@pytest.mark.parametrize("height", [7, 5200])
def test_label_file_says_what_it_was_made_of(tmp_path, height):
    path, facts = tmp_path / "a_label.tiff", {"image": "ä.png", "plan": {"flips": ["none"]}}
    labels = np.zeros((height, 5000), np.uint32)
    labels[0, 0], labels[-1, -1] = 1, 70_000
    n_cells = write_labels(path, np.array_split(labels, 3), height=height, width=5000, facts=facts)
    assert n_cells == 70_000
    assert read_label_header(path) == LabelHeader(height, 5000, 70_000, facts)
    assert np.array_equal(read_labels(path), labels)


def test_label_header_of_files_of_other_programs_is_reported_apart(tmp_path):
    path = tmp_path / "a_label.tiff"
    assert read_label_header(path) is None
    path.write_bytes(b"II*\0 torn")
    assert read_label_header(path) is None
    tifffile.imwrite(path, np.zeros((3, 4), np.uint8), description="[1]", metadata=None)
    assert read_label_header(path) == LabelHeader(3, 4, None, {})
    write_labels(path, [np.zeros((3, 4), np.int64)], height=3, width=4)
    assert read_label_header(path) == LabelHeader(3, 4, None, {})
