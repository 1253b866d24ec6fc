"""MHA against SimpleITK: the same pixels and geometry, or an error where SimpleITK guesses."""

import itertools
import zlib

import numpy as np
import pytest
import SimpleITK

from mediar_infer.errors import ImageReadError
from mediar_infer.images.limits import ReadOptions
from mediar_infer.images.open import open_image
from mediar_infer.labels.files import write_labels

PIXELS = np.arange(300, 342, dtype=np.uint16).reshape(6, 7)
FIELDS = {
    "ObjectType": "Image",
    "NDims": "2",
    "BinaryData": "True",
    "BinaryDataByteOrderMSB": "False",
    "TransformMatrix": "1 0 0 1",
    "Offset": "0 0",
    "ElementSpacing": "1 1",
    "DimSize": "7 6",
    "ElementType": "MET_USHORT",
    "ElementDataFile": "LOCAL",
}


def write_file(path, data, **changes):
    """A file of the fields above; None removes one."""
    fields = {**FIELDS, **changes}
    fields["ElementDataFile"] = fields.pop("ElementDataFile")
    lines = [f"{key} = {value}\n" for key, value in fields.items() if value is not None]
    path.write_bytes("".join(lines).encode() + data)


def read_by_oracle(path):
    reader = SimpleITK.ImageFileReader()
    reader.SetImageIO("MetaImageIO")
    reader.SetFileName(str(path))
    return reader.Execute()


def assert_reads_like_oracle(path, expected=None):
    image = read_by_oracle(path)
    with open_image(path) as source:
        rows = source.read_rows(0, source.height)
    pixels = SimpleITK.GetArrayFromImage(image)
    channels = pixels[..., None].repeat(3, -1) if pixels.ndim == 2 else pixels
    np.testing.assert_array_equal(rows, channels)
    assert rows.dtype == pixels.dtype
    if expected is not None:
        np.testing.assert_array_equal(pixels, expected)
    assert source.geometry.spacing == pytest.approx(image.GetSpacing())
    assert source.geometry.origin == pytest.approx(image.GetOrigin())
    assert source.geometry.direction == pytest.approx(image.GetDirection())


DEFLATED = zlib.compress(PIXELS.tobytes())
SIZED = {"CompressedData": "True", "CompressedDataSize": len(DEFLATED)}
SWAPPED = PIXELS.astype(">u2").tobytes()
AS_ORACLE = {
    "plain": (PIXELS.tobytes(), {}),
    "compressed": (DEFLATED, SIZED),
    "gzip": (
        (stream := zlib.compressobj(wbits=31)).compress(PIXELS.tobytes()) + stream.flush(),
        {"CompressedData": "True", "CompressedDataSize": 0},
    ),
    "big-endian": (SWAPPED, {"BinaryDataByteOrderMSB": "True"}),
    "big-endian by its other key": (
        SWAPPED,
        {"BinaryDataByteOrderMSB": None, "ElementByteOrderMSB": "True"},
    ),
    "big-endian, compressed": (
        zlib.compress(SWAPPED),
        {**SIZED, "CompressedDataSize": len(zlib.compress(SWAPPED)), "BinaryDataByteOrderMSB": "1"},
    ),
    "no byte order": (PIXELS.tobytes(), {"BinaryDataByteOrderMSB": None}),
    "MET_LONG of 4 bytes": (PIXELS.astype("i4").tobytes(), {"ElementType": "MET_LONG"}),
    "MET_ULONG of 4 bytes": (PIXELS.astype("u4").tobytes(), {"ElementType": "MET_ULONG"}),
    "MET_LONG_LONG": (PIXELS.astype("i8").tobytes(), {"ElementType": "MET_LONG_LONG"}),
    "array type": (PIXELS.tobytes(), {"ElementType": "MET_USHORT_ARRAY"}),
    "channels": (
        np.arange(126, dtype="u2").tobytes(),
        {"ElementNumberOfChannels": 3},
    ),
    "header size 0": (PIXELS.tobytes(), {"HeaderSize": 0}),
    "pixels at the end": (b"junk" + PIXELS.tobytes(), {"HeaderSize": -1}),
    "pixels at a position": (b"".join([bytes(700), PIXELS.tobytes()]), {"HeaderSize": None}),
    "bytes behind the pixels": (PIXELS.tobytes() + b"junk", {}),
    "intensity function, which is ignored": (
        PIXELS.tobytes(),
        {"ElementToIntensityFunctionSlope": 2},
    ),
    "letters of local": (PIXELS.tobytes(), {"ElementDataFile": "local"}),
    "short flags": (DEFLATED, {**SIZED, "CompressedData": "T"}),
    "unknown fields": (PIXELS.tobytes(), {"Foo": "bar", "AnatomicalOrientation": "??"}),
    "geometry": (
        PIXELS.tobytes(),
        {"TransformMatrix": "0 1 -1 0", "Offset": "3 -4.5", "ElementSpacing": "0.5 0.25"},
    ),
    "sheared": (PIXELS.tobytes(), {"TransformMatrix": "1 1 0 1"}),
    "negative spacing": (PIXELS.tobytes(), {"ElementSpacing": "-1 2"}),
    "element size": (PIXELS.tobytes(), {"ElementSpacing": None, "ElementSize": "0.5 0.25"}),
    "position": (PIXELS.tobytes(), {"Offset": None, "Position": "3 4"}),
    "origin": (PIXELS.tobytes(), {"Offset": None, "Origin": "3 4"}),
    "rotation": (PIXELS.tobytes(), {"TransformMatrix": None, "Rotation": "0 1 -1 0"}),
    "orientation": (PIXELS.tobytes(), {"TransformMatrix": None, "Orientation": "0 1 -1 0"}),
    "no geometry": (
        PIXELS.tobytes(),
        {"TransformMatrix": None, "Offset": None, "ElementSpacing": None},
    ),
}


@pytest.mark.parametrize("name", sorted(AS_ORACLE.keys() - {"gzip", "pixels at a position"}))
def test_whole_file_is_read_like_the_oracle(tmp_path, name):
    data, changes = AS_ORACLE[name]
    write_file(tmp_path / "a.mha", data, **changes)
    assert_reads_like_oracle(tmp_path / "a.mha")


def test_pixels_at_a_position_of_their_own_are_read_like_the_oracle(tmp_path):
    write_file(tmp_path / "a.mha", b"", HeaderSize=700)
    head = (tmp_path / "a.mha").read_bytes()
    (tmp_path / "a.mha").write_bytes(head.ljust(700, b"#") + PIXELS[::-1].tobytes())
    assert_reads_like_oracle(tmp_path / "a.mha", PIXELS[::-1])


def test_windows_line_ends_are_read_like_the_oracle(tmp_path):
    write_file(tmp_path / "a.mha", b"")
    head = (tmp_path / "a.mha").read_bytes().replace(b"\n", b"\r\n")
    (tmp_path / "a.mha").write_bytes(head + PIXELS.tobytes())
    assert_reads_like_oracle(tmp_path / "a.mha", PIXELS)


# Where SimpleITK returns memory that nobody wrote, or other pixels than were meant.
BETTER_THAN_ORACLE = {
    "no compressed size": (DEFLATED, {"CompressedData": "True"}),
    "compressed size 0": (DEFLATED, {"CompressedData": "True", "CompressedDataSize": 0}),
    "gzip without a size": AS_ORACLE["gzip"],
    "MET_LONG of 8 bytes": (PIXELS.astype("i8").tobytes(), {"ElementType": "MET_LONG"}),
    "MET_ULONG of 8 bytes, compressed": (
        zlib.compress(PIXELS.astype("u8").tobytes()),
        {"ElementType": "MET_ULONG", "CompressedData": "True"},
    ),
}


@pytest.mark.parametrize("name", BETTER_THAN_ORACLE)
def test_pixels_are_right_where_the_oracle_guesses(tmp_path, name):
    data, changes = BETTER_THAN_ORACLE[name]
    write_file(tmp_path / "a.mha", data, **changes)
    with open_image(tmp_path / "a.mha") as source:
        np.testing.assert_array_equal(source.read_rows(0, 6)[:, :, 1], PIXELS)


def test_plane_of_old_longs_lies_behind_the_planes_before_it(tmp_path):
    stack = np.arange(3 * 42, dtype=np.int64).reshape(3, 6, 7)
    geometry = {"TransformMatrix": None, "Offset": None, "ElementSpacing": None}
    shape = {"NDims": "3", "DimSize": "7 6 3", "ElementType": "MET_LONG"}
    for data, flag in ((stack.tobytes(), "False"), (zlib.compress(stack.tobytes()), "True")):
        write_file(tmp_path / "a.mha", data, CompressedData=flag, **geometry, **shape)
        for plane in range(3):
            with open_image(tmp_path / "a.mha", ReadOptions(plane=plane)) as source:
                np.testing.assert_array_equal(source.read_rows(0, 6)[:, :, 0], stack[plane])


REFUSED = {
    "a list of files": (b"a.raw\nb.raw\n", {"ElementDataFile": "LIST"}, "in another file, LIST"),
    "a file of its own": (b"", {"ElementDataFile": "a.raw"}, "in another file, a.raw"),
    "a larger stream claimed": (DEFLATED, {**SIZED, "CompressedDataSize": 999}, "999 bytes of"),
    "a shorter stream claimed": (DEFLATED, {**SIZED, "CompressedDataSize": 20}, "end after"),
    "a negative stream": (DEFLATED, {**SIZED, "CompressedDataSize": -5}, "CompressedDataSize -5"),
    "compressed at the end": (DEFLATED, {**SIZED, "HeaderSize": -1}, "HeaderSize -1"),
    "a strange header size": (DEFLATED, {"HeaderSize": -7}, "HeaderSize -7"),
    "two byte orders": (PIXELS.tobytes(), {"ElementByteOrderMSB": "True"}, "two byte orders"),
    "no flag": (DEFLATED, {**SIZED, "CompressedData": "Yes"}, "Yes, neither True nor False"),
    "longs of neither size": (bytes(200), {"ElementType": "MET_LONG"}, "168 or 336 bytes"),
    "text": (b"1 2 3", {"BinaryData": "False"}, "pixels written as text"),
    "letters": (PIXELS.tobytes(), {"ElementType": "MET_STRING"}, "without a known STRING"),
    "a scene": (PIXELS.tobytes(), {"ObjectType": "Scene"}, "an object of type Scene"),
    "spacing 0": (PIXELS.tobytes(), {"ElementSpacing": "0 1"}, "a spacing of 0"),
    "spacing nan": (PIXELS.tobytes(), {"ElementSpacing": "nan 1"}, "ElementSpacing nan 1"),
    "one number": (PIXELS.tobytes(), {"Offset": "1"}, "Offset 1, not 2 numbers"),
    "no dimensions": (PIXELS.tobytes(), {"NDims": None}, "without a known NDims"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_known_is_an_error(tmp_path, name):
    data, changes, message = REFUSED[name]
    write_file(tmp_path / "a.mha", data, **changes)
    with pytest.raises(ImageReadError, match=rf"a\.mha: found .*{message}.*copy or export it"):
        open_image(tmp_path / "a.mha")


@pytest.mark.parametrize("compressed", [False, True])
def test_damaged_file_is_what_was_written_or_read_by_the_oracle_or_an_error(
    tmp_path, rng, compressed
):
    path = tmp_path / "a.mha"
    write_file(path, DEFLATED if compressed else PIXELS.tobytes(), **(SIZED if compressed else {}))
    whole = path.read_bytes()
    n_read = 0
    for _ in range(150):
        data = bytearray(whole)
        for position in rng.integers(0, len(data), rng.integers(1, 3)):
            data[position] ^= 1 << int(rng.integers(8))
        path.write_bytes(data)
        try:
            with open_image(path) as source:
                rows = source.read_rows(0, source.height)[:, :, 0]
        except ImageReadError:
            continue
        n_read += 1
        if not np.array_equal(rows, PIXELS):  # where SimpleITK fails or guesses, these are right
            np.testing.assert_array_equal(rows, SimpleITK.GetArrayFromImage(read_by_oracle(path)))
    assert n_read > 5


@pytest.mark.parametrize(
    ("dtype", "n_dimensions"), list(itertools.product([np.uint16, np.uint32], [2, 3]))
)
def test_written_labels_are_what_the_oracle_would_write(tmp_path, dtype, n_dimensions):
    labels = PIXELS.astype(dtype) * (1 if dtype == np.uint16 else 1000)
    image = SimpleITK.GetImageFromArray(labels.reshape((1,) * (n_dimensions - 2) + labels.shape))
    image.SetSpacing((0.1, 1 / 3, 1e-7)[:n_dimensions])
    image.SetOrigin((1e10, -7.25, 3.0)[:n_dimensions])
    turned = {2: (0.0, -1.0, 1.0, 0.0), 3: (0.0, 0.0, 1.0, 1.0, 0.0, 0.0, 0.0, 1.0, 0.0)}
    image.SetDirection(turned[n_dimensions])
    SimpleITK.WriteImage(image, str(tmp_path / "theirs.mha"), useCompression=True)
    with open_image(tmp_path / "theirs.mha") as source:
        geometry = source.geometry

    write_labels(tmp_path / "ours.mha", [labels], height=6, width=7, geometry=geometry)

    ours = read_by_oracle(tmp_path / "ours.mha")
    theirs = read_by_oracle(tmp_path / "theirs.mha")
    np.testing.assert_array_equal(*map(SimpleITK.GetArrayFromImage, (ours, theirs)))
    assert ours.GetPixelIDTypeAsString() == theirs.GetPixelIDTypeAsString()
    for attribute in ("GetSize", "GetSpacing", "GetOrigin", "GetDirection"):
        assert getattr(ours, attribute)() == getattr(theirs, attribute)()

    def fields(path):
        head = path.read_bytes().partition(b"ElementDataFile = LOCAL\n")[0].decode()
        lines = [line for line in head.splitlines() if "AnatomicalOrientation" not in line]
        return [line for line in lines if "CompressedDataSize" not in line]

    assert fields(tmp_path / "ours.mha") == fields(tmp_path / "theirs.mha")
