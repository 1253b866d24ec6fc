"""TIFF of every kind: layout, compression, data type, axes, colour space, lazy reading."""

import logging
import struct

import numpy as np
import pytest
import tifffile

from mediar_infer.errors import ImageReadError
from mediar_infer.images import limits, tiff_source
from mediar_infer.images.limits import ReadOptions
from mediar_infer.images.open import open_image
from mediar_infer.images.sources import to_three_channels

HEIGHT, WIDTH = 75, 90


@pytest.fixture
def path(tmp_path):
    return tmp_path / "cells.tif"


def smooth(*shape, dtype=np.uint8):
    """Values that survive lossy codecs; every channel of the last axis differs."""
    y, x, channel = np.meshgrid(*(np.arange(n) for n in (*shape, 1)[:3]), indexing="ij")
    image = (2 * x + y + 40 * channel) % 251
    return image.reshape(shape).astype(dtype)


RGB = smooth(HEIGHT, WIDTH, 3)
GREY = smooth(HEIGHT, WIDTH)


def read_all(path, **options):
    with open_image(path, ReadOptions(**options)) as source:
        rows = source.read_rows(0, source.height)
        assert rows.shape == (source.height, source.width, 3)
        assert rows.dtype == source.dtype
        assert rows.dtype.isnative
        assert rows.flags.c_contiguous
        return rows, list(source.warnings)


def assert_reads(path, expected, warnings=(), **options):
    rows, found = read_all(path, **options)
    assert rows.dtype == expected.dtype.newbyteorder("=")
    np.testing.assert_array_equal(rows, to_three_channels(expected))
    assert found == list(warnings)


LAYOUTS = {
    "one strip": {},
    "strips": {"rowsperstrip": 7},
    "tiles": {"tile": (32, 48)},
    "tiles larger than the image": {"tile": (256, 256)},
    "bigtiff": {"bigtiff": True, "tile": (16, 16)},
    "big endian": {"byteorder": ">"},
    "no metadata": {"metadata": None, "rowsperstrip": 5},
    "ome": {"ome": True},
    "imagej": {"imagej": True},
}


@pytest.mark.parametrize("image", [GREY, RGB], ids=["grey", "rgb"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_is_read_as_written(path, layout, image):
    photometric = "rgb" if image.ndim == 3 else "minisblack"
    tifffile.imwrite(path, image, photometric=photometric, **LAYOUTS[layout])
    assert_reads(path, image)


SEGMENTS = [{"rowsperstrip": 16}, {"tile": (32, 32)}]
COMPRESSIONS = ["deflate", "lzw", "zstd", "lzma", "packbits", "jpeg2000"]


@pytest.mark.parametrize(
    "layout", [{"rowsperstrip": 16}, {"tile": (32, 32)}], ids=["strip", "tile"]
)
@pytest.mark.parametrize("planar", ["contig", "separate"])
@pytest.mark.parametrize("compression", COMPRESSIONS)
def test_lossless_compression_is_read_as_written(path, compression, planar, layout):
    codec = {"reversible": True, "level": 0} if compression == "jpeg2000" else {}
    image = RGB if planar == "contig" else np.ascontiguousarray(np.moveaxis(RGB, -1, 0))
    tifffile.imwrite(
        path,
        image,
        photometric="rgb",
        planarconfig=planar,
        compression=compression,
        compressionargs=codec,
        **layout,
    )
    assert_reads(path, RGB)


@pytest.mark.parametrize(
    "layout", [{"rowsperstrip": 16}, {"tile": (32, 32)}], ids=["strip", "tile"]
)
@pytest.mark.parametrize("subsampling", [(1, 1), (2, 2)])
def test_jpeg_compression_returns_rgb(path, layout, subsampling):
    image = np.repeat(np.arange(96, dtype=np.uint8)[:, None], 96, 1)
    image = np.stack([image, 255 - image, image // 2 + 60], axis=-1)
    tifffile.imwrite(
        path,
        image,
        photometric="rgb",
        compression="jpeg",
        compressionargs={"level": 98},
        subsampling=subsampling,
        **layout,
    )
    rows, warnings = read_all(path)
    assert np.abs(rows.astype(int) - image).max() <= 6
    assert warnings == []


ALL_TYPES = ["u1", "i1", "u2", "i2", "u4", "i4", "u8", "i8", "f2", "f4", "f8"]


@pytest.mark.parametrize("byteorder", ["<", ">"])
@pytest.mark.parametrize("dtype", ALL_TYPES)
def test_every_data_type_is_read_as_written(path, dtype, byteorder):
    image = smooth(HEIGHT, WIDTH, 3, dtype=dtype)
    tifffile.imwrite(path, image, photometric="rgb", byteorder=byteorder)
    assert_reads(path, image)


@pytest.mark.parametrize("byteorder", ["<", ">"])
@pytest.mark.parametrize("dtype", ["u1", "i2", "u2", "u4", "f2", "f4", "f8"])
def test_predictors_are_undone(path, dtype, byteorder):
    image = smooth(HEIGHT, WIDTH, 3, dtype=dtype)
    options = {"compression": "deflate", "predictor": True, "byteorder": byteorder}
    tifffile.imwrite(path, image, photometric="rgb", **options)
    assert_reads(path, image)


@pytest.mark.parametrize("bits", [1, 4, 12])
def test_packed_integers_are_unpacked(path, bits):
    dtype = np.uint16 if bits > 8 else np.uint8
    image = smooth(HEIGHT, WIDTH, dtype=dtype) % (2**bits)
    tifffile.imwrite(path, image, bitspersample=bits, photometric="minisblack")
    rows, warnings = read_all(path)
    np.testing.assert_array_equal(rows, to_three_channels(image))
    assert warnings == []


def test_bool_image_is_read_as_zero_and_one_without_inversion(path):
    mask = GREY > 100
    tifffile.imwrite(path, mask)  # stored as MinIsWhite by tifffile
    rows, warnings = read_all(path)
    assert rows.dtype == np.uint8
    np.testing.assert_array_equal(rows, to_three_channels(mask.astype(np.uint8)))
    assert warnings == ["photometric is MinIsWhite: stored values are kept, not inverted"]


def test_min_is_white_keeps_stored_values_with_a_warning(path):
    tifffile.imwrite(path, GREY, photometric="miniswhite")
    note = "photometric is MinIsWhite: stored values are kept, not inverted"
    assert_reads(path, GREY, [note])


@pytest.mark.parametrize("scale", [257, 1], ids=["16-bit palette", "8-bit values in it"])
def test_palette_becomes_rgb(path, scale):
    colours = np.zeros((3, 256), np.uint16)
    colours[:, :3] = [[10, 200, 0], [20, 0, 90], [30, 50, 255]]
    tifffile.imwrite(path, GREY % 3, photometric="palette", colormap=colours * scale)
    note = "the colours of a colour table are used, not the stored numbers"
    assert_reads(path, colours.T[GREY % 3].astype(np.uint8), [note])


@pytest.mark.parametrize("colours", [[[255, 0], [0, 255], [10, 20]], [[255, 0]] * 3])
def test_palette_of_one_bit_becomes_rgb(path, colours):
    mask = GREY > 100
    colours = np.array(colours, np.uint16)
    tag = (320, "H", 6, tuple((colours * 257).ravel().tolist()), True)
    tifffile.imwrite(
        path, mask, photometric="minisblack", bitspersample=1, extratags=[tag], metadata=None
    )
    with tifffile.TiffFile(path) as tif:
        at = tif.pages[0].tags[262].valueoffset
    data = bytearray(path.read_bytes())
    data[at : at + 2] = struct.pack("<H", 3)
    path.write_bytes(data)
    notes = ["the colours of a colour table are used, not the stored numbers"]
    is_grey = (colours == colours[:1]).all()
    assert_reads(path, colours.T[mask.astype(int)].astype(np.uint8), [] if is_grey else notes)


def test_axes_may_be_named_in_lower_case(path):
    stack = np.stack([GREY, GREY // 2])
    tifffile.imwrite(path, GREY, metadata={"axes": "yx"})
    assert_reads(path, GREY)
    tifffile.imwrite(path, stack, metadata={"axes": "zyx"}, photometric="minisblack")
    assert_reads(path, stack[1], plane=1)


def test_cmyk_becomes_rgb(path):
    inks = np.zeros((HEIGHT, WIDTH, 4), np.uint8)
    inks[:, :, :3] = 255 - RGB
    tifffile.imwrite(path, inks, photometric="separated", compression="deflate")
    assert_reads(path, RGB, ["CMYK is converted to RGB without a colour profile"])


def test_uncompressed_ycbcr_becomes_rgb(path):
    cells = np.full((HEIGHT, WIDTH, 3), (76, 85, 255), np.uint8)  # red
    full_chroma = [(530, "H", 2, (1, 1), True)]
    tifffile.imwrite(path, cells, photometric="ycbcr", extratags=full_chroma, metadata=None)
    rows, _ = read_all(path)
    assert np.abs(rows.astype(int) - (254, 0, 0)).max() <= 2


def test_aperio_ycbcr_jpeg2000_becomes_rgb(path):
    cells = np.full((64, 64, 3), (76, 85, 255), np.uint8)
    args = {"level": 0, "reversible": True, "mct": False}
    tifffile.imwrite(
        path, cells, photometric="rgb", compression=33003, compressionargs=args, tile=(32, 32)
    )
    rows, _ = read_all(path)
    assert np.abs(rows.astype(int) - (254, 0, 0)).max() <= 2


def test_unsupported_colour_space_is_refused(path):
    tifffile.imwrite(path, RGB, photometric="cielab")
    with pytest.raises(ImageReadError, match=r"cells.tif: found photometric .*convert the image"):
        open_image(path)


def test_opacity_is_dropped_without_a_warning(path):
    rgba = np.dstack([RGB, np.full_like(GREY, 9)])
    tifffile.imwrite(path, rgba, photometric="rgb", extrasamples=["unassalpha"])
    assert_reads(path, RGB)

    planes = np.ascontiguousarray(np.moveaxis(rgba, -1, 0))
    tifffile.imwrite(
        path,
        planes,
        photometric="rgb",
        planarconfig="separate",
        extrasamples=["assocalpha"],
        compression="lzw",
    )
    assert_reads(path, RGB)

    grey_alpha = rgba[:, :, [0, 3]].copy()
    tifffile.imwrite(
        path,
        grey_alpha,
        photometric="minisblack",
        planarconfig="contig",
        extrasamples=["unassalpha"],
    )
    assert_reads(path, rgba[:, :, 0])


TWO = "2 channels found: read as red and green, blue is zero"
FIVE = "5 channels found: the first 3 are used"


@pytest.mark.parametrize("options", [{}, {"compression": "deflate", "tile": (32, 32)}])
@pytest.mark.parametrize("kind", ["shaped", "imagej", "ome"])
@pytest.mark.parametrize(("n_channels", "warning"), [(2, TWO), (3, None), (5, FIVE)])
def test_named_channels_are_read_whatever_the_format(path, kind, options, n_channels, warning):
    channels = smooth(HEIGHT, WIDTH, n_channels)
    stack = np.ascontiguousarray(np.moveaxis(channels, -1, 0)).astype(np.uint16)
    flags = {} if kind == "shaped" else {kind: True}
    if kind == "imagej" and options:
        options = {"compression": "deflate"}
    tifffile.imwrite(
        path, stack, photometric="minisblack", metadata={"axes": "CYX"}, **flags, **options
    )
    assert_reads(path, channels.astype(np.uint16), [warning] if warning else [])


@pytest.mark.parametrize("n_channels", [2, 5])
@pytest.mark.parametrize("planar", ["contig", "separate"])
def test_samples_without_a_colour_meaning_are_channels(path, planar, n_channels):
    channels = smooth(HEIGHT, WIDTH, n_channels)
    image = channels if planar == "contig" else np.ascontiguousarray(np.moveaxis(channels, -1, 0))
    tifffile.imwrite(
        path, image, photometric="minisblack", planarconfig=planar, compression="deflate"
    )
    assert_reads(path, channels, [TWO if n_channels == 2 else FIVE])


@pytest.mark.parametrize("options", [{}, {"compression": "deflate"}, {"tile": (32, 32)}])
@pytest.mark.parametrize("kind", ["shaped", "imagej", "ome"])
def test_stack_is_an_error_that_names_the_option_and_the_option_works(path, kind, options):
    stack = smooth(2, 3, 2 * HEIGHT * WIDTH).reshape(2, 3, 2, HEIGHT, WIDTH)
    stack[1, 2, 0] = GREY
    flags = {} if kind == "shaped" else {kind: True}
    if kind == "imagej":
        options = {k: v for k, v in options.items() if k != "tile"}
    tifffile.imwrite(
        path, stack, photometric="minisblack", metadata={"axes": "TZCYX"}, **flags, **options
    )
    found = r"cells.tif: found 6 planes \(axes TZCYX, shape 2 × 3 × 2 × 75 × 90\)"
    with pytest.raises(ImageReadError, match=found + r".*--plane N \(0 to 5\)"):
        open_image(path)
    with pytest.raises(ImageReadError, match="expected a --plane from 0 to 5, not 6"):
        open_image(path, ReadOptions(plane=6))
    assert_reads(path, np.moveaxis(stack[1, 2], 0, -1), [TWO], plane=5)
    assert_reads(path, np.moveaxis(stack[0, 1], 0, -1), [TWO], plane=1)


@pytest.mark.parametrize("metadata", [{}, None], ids=["shaped", "plain pages"])
def test_unnamed_first_axis_is_never_guessed(path, metadata):
    planes = np.stack([GREY, GREY // 2, GREY // 3])
    tifffile.imwrite(path, planes, photometric="minisblack", metadata=metadata)
    text = (
        r"does not say what axis [QI] is\), expected one 2-D image.*named axes \(C for channels\)"
    )
    with pytest.raises(ImageReadError, match=text):
        open_image(path)
    assert_reads(path, GREY // 2, plane=1)


@pytest.mark.parametrize("options", [{}, {"compression": "deflate"}, {"metadata": None}])
def test_unnamed_colours_on_the_last_axis_are_read_with_a_warning(path, options):
    tifffile.imwrite(path, RGB, photometric="minisblack", **options)  # 75 pages of 90 × 3
    note = (
        "axes are not named in the metadata; shape 75 × 90 × 3 is read as height × width × colours"
    )
    assert_reads(path, RGB, [note])


@pytest.mark.parametrize("options", [{}, {"compression": "deflate"}])
def test_named_channels_on_the_last_axis_are_read(path, options):
    tifffile.imwrite(path, RGB, photometric="minisblack", metadata={"axes": "YXC"}, **options)
    assert_reads(path, RGB)


def test_axes_of_length_one_do_not_count(path):
    tifffile.imwrite(path, GREY[None, None], photometric="minisblack")
    assert_reads(path, GREY)
    tifffile.imwrite(path, GREY[:1], photometric="minisblack")
    assert_reads(path, GREY[:1])
    tifffile.imwrite(path, GREY[:, :1].copy(), photometric="minisblack")
    assert_reads(path, GREY[:, :1])


def test_volume_tiles_need_a_plane(path):
    volume = np.arange(20 * 40 * 50, dtype=np.uint16).reshape(20, 40, 50)
    tifffile.imwrite(path, volume, tile=(16, 16, 16), photometric="minisblack", volumetric=True)
    with pytest.raises(ImageReadError, match="found 20 planes"):
        open_image(path)
    assert_reads(path, volume[17], plane=17)


def test_pyramid_is_read_at_full_resolution_and_side_images_are_ignored(path):
    full = smooth(256, 320, 3)
    options = {"photometric": "rgb", "tile": (64, 64), "compression": "deflate"}
    with tifffile.TiffWriter(path, bigtiff=True) as tif:
        tif.write(full, subifds=2, **options)
        tif.write(full[::2, ::2], subfiletype=1, **options)
        tif.write(full[::4, ::4], subfiletype=1, **options)
        tif.write(full[::8, ::8], subfiletype=1, photometric="rgb")
    assert_reads(path, full)


def test_ome_pyramid_is_read_at_full_resolution(path):
    full = smooth(256, 320).astype(np.uint16)
    with tifffile.TiffWriter(path, ome=True) as tif:
        tif.write(full, subifds=1, tile=(64, 64), photometric="minisblack")
        tif.write(full[::2, ::2], subfiletype=1, tile=(64, 64), photometric="minisblack")
    assert_reads(path, full)


def test_aperio_slide_keeps_the_baseline_only(tmp_path):
    full = smooth(256, 320, 3)
    options = {"photometric": "rgb", "compression": "jpeg2000", "metadata": None}
    options["compressionargs"] = {"level": 0, "reversible": True}
    text = "Aperio Image Library v1\r\n320x256|AppMag = 20"
    with tifffile.TiffWriter(tmp_path / "slide.svs") as tif:
        tif.write(full, tile=(64, 64), description=text, **options)
        tif.write(full[::8, ::8], description=text + " thumbnail", **options)
        tif.write(full[::2, ::2], tile=(64, 64), description=text, **options)
        tif.write(full[:40, :50], description="label", subfiletype=1, **options)
        tif.write(full[:60, :90], description="macro", subfiletype=9, **options)
    assert_reads(tmp_path / "slide.svs", full)


def test_largest_image_is_read_and_the_others_are_reported(path):
    with tifffile.TiffWriter(path) as tif:
        tif.write(GREY[:20, :30], photometric="minisblack")
        tif.write(RGB, photometric="rgb")
    note = (
        "1 further image(s) in the file are not read (20 × 30); choose one with --scene N, or all"
        " with --scene all"
    )
    assert_reads(path, RGB, [note])


def test_orientation_tag_is_reported_but_not_applied(path):
    tifffile.imwrite(path, GREY, extratags=[(274, "H", 1, 6, True)])
    assert_reads(path, GREY, ["the orientation tag (6) is ignored: rows are as stored"])


BANDS = {
    "strips": ({"rowsperstrip": 7, "compression": "deflate"}, "contig"),
    "tiles": ({"tile": (32, 32), "compression": "deflate"}, "contig"),
    "planar tiles": ({"tile": (32, 32), "compression": "deflate"}, "separate"),
    "planar strips": ({"rowsperstrip": 9, "compression": "lzw"}, "separate"),
    "one compressed strip": ({"rowsperstrip": HEIGHT, "compression": "deflate"}, "contig"),
    "contiguous": ({}, "contig"),
    "contiguous planes": ({}, "separate"),
    "uncompressed tiles": ({"tile": (16, 16)}, "contig"),
}


@pytest.mark.parametrize("cache_bytes", [0, 20_000, 2**27])
@pytest.mark.parametrize("kind", BANDS)
def test_any_band_equals_the_same_rows_of_the_whole(path, monkeypatch, kind, cache_bytes):
    monkeypatch.setattr(tiff_source, "CACHE_BYTES", cache_bytes)
    options, planar = BANDS[kind]
    image = RGB if planar == "contig" else np.ascontiguousarray(np.moveaxis(RGB, -1, 0))
    tifffile.imwrite(path, image, photometric="rgb", planarconfig=planar, **options)
    with open_image(path) as source:
        for top, bottom in [(0, 1), (0, 40), (20, 60), (31, 33), (5, 6), (74, 75), (0, 75), (9, 9)]:
            rows = source.read_rows(top, bottom)
            np.testing.assert_array_equal(rows, RGB[top:bottom])
            rows[...] = 0  # the caller owns them


def count_decoded(source):
    (rows,) = source._planes.values()
    decoded = []
    decode = rows._decode

    def counting(data, index, **tables):
        decoded.append(index)
        return decode(data, index, **tables)

    rows._decode = counting
    return decoded


def test_only_the_tiles_that_are_touched_are_decoded_and_only_once(path, monkeypatch):
    image = smooth(256, 64, 3)
    tifffile.imwrite(path, image, photometric="rgb", tile=(32, 32), compression="deflate")
    monkeypatch.setattr(tiff_source, "CACHE_BYTES", 2 * 32 * 64 * 3)  # two rows of tiles
    with open_image(path) as source:
        decoded = count_decoded(source)
        source.read_rows(100, 120)
        assert sorted(decoded) == [6, 7]
        for top in range(96, 256, 16):  # overlapping reads going down
            source.read_rows(top, min(top + 40, 256))
        assert sorted(decoded) == list(range(6, 16))


def test_decoded_segments_stay_within_the_cache(path, monkeypatch):
    image = smooth(256, 64, 3)
    tifffile.imwrite(path, image, photometric="rgb", rowsperstrip=4, compression="deflate")
    monkeypatch.setattr(tiff_source, "CACHE_BYTES", 5 * 4 * 64 * 3)
    with open_image(path) as source:
        (rows,) = source._planes.values()
        np.testing.assert_array_equal(source.read_rows(0, 256), image)
        assert len(rows._cache) == 5


def test_sparse_tiles_read_as_zero_with_a_warning(path):
    image = smooth(64, 64)
    tiles = [image[:32, :32], None, None, image[32:, 32:]]
    tifffile.imwrite(
        path,
        iter(tiles),
        shape=(64, 64),
        dtype=np.uint8,
        tile=(32, 32),
        compression="deflate",
        photometric="minisblack",
    )
    image[:32, 32:] = image[32:, :32] = 0
    assert_reads(path, image, ["2 tiles are not stored and read as no-data"])


def test_extra_bytes_at_the_end_are_harmless(path):
    tifffile.imwrite(path, GREY)
    with path.open("ab") as file:
        file.write(b"trailing")
    assert_reads(path, GREY)


@pytest.mark.parametrize("dtype", ["complex64", "complex128"])
def test_complex_samples_are_refused(path, dtype):
    tifffile.imwrite(path, GREY.astype(dtype))
    with pytest.raises(ImageReadError, match=f"found samples of type {dtype}, expected integers"):
        open_image(path)


def ome_xml(tiff_data):
    return (
        '<?xml version="1.0"?><OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06" '
        'UUID="urn:uuid:0"><Image ID="Image:0"><Pixels ID="Pixels:0" DimensionOrder="XYCZT" '
        f'Type="uint8" SizeX="{WIDTH}" SizeY="{HEIGHT}" SizeC="1" SizeZ="2" SizeT="1">'
        f'<Channel ID="Channel:0:0"/>{tiff_data}</Pixels></Image></OME>'
    )


def test_file_of_a_multi_file_ome_tiff_is_read_by_itself(tmp_path):
    names = ["first.ome.tif", "second.ome.tif"]
    planes = "".join(
        f'<TiffData IFD="0" FirstZ="{z}" PlaneCount="1">'
        f'<UUID FileName="{name}">urn:uuid:{z}</UUID></TiffData>'
        for z, name in enumerate(names)
    )
    note = "the OME metadata is damaged or spans several files: it is not used"
    for k, name in enumerate(names):
        image = GREY // (k + 1)
        tifffile.imwrite(tmp_path / name, image, description=ome_xml(planes), metadata=None)
        assert_reads(tmp_path / name, image, [note])


def test_plane_without_a_page_is_refused(path, caplog):
    caplog.set_level(logging.CRITICAL, logger="tifffile")
    xml = ome_xml('<TiffData IFD="0" PlaneCount="2"/>')
    tifffile.imwrite(path, GREY, description=xml, metadata=None, compression="deflate")
    assert_reads(path, GREY, plane=0)
    with pytest.raises(ImageReadError, match=r"found no page for plane 1 although the metadata"):
        open_image(path, ReadOptions(plane=1))


def strip_tags(path):
    """Offsets in the file of the values of StripOffsets and StripByteCounts."""
    with tifffile.TiffFile(path) as tif:
        tags = tif.pages[0].tags
        return tags[273], tags[279]


def overwrite(path, tag, values):
    code = {3: "H", 4: "I", 16: "Q"}[tag.dtype]
    data = bytearray(path.read_bytes())
    struct.pack_into(f"<{len(values)}{code}", data, tag.valueoffset, *values)
    path.write_bytes(data)


def test_missing_strips_are_not_read_as_half_an_image(path):
    tifffile.imwrite(path, GREY, rowsperstrip=25, compression="deflate")
    offsets, counts = strip_tags(path)
    overwrite(path, offsets, [*offsets.value[:2], 0])
    overwrite(path, counts, [*counts.value[:2], 0])
    with pytest.raises(ImageReadError, match=r"found 2 of 3 strips, expected all"):
        open_image(path)


@pytest.mark.parametrize("options", [{}, {"compression": "deflate", "rowsperstrip": 10}])
@pytest.mark.parametrize("share", [0.5, 0.9, 0.999])
def test_truncated_file_is_refused_when_it_is_opened(path, options, share, caplog):
    caplog.set_level(logging.CRITICAL, logger="tifffile")
    tifffile.imwrite(path, RGB, photometric="rgb", **options)
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    with pytest.raises(ImageReadError, match=r"cells.tif: .*expected"):
        open_image(path)


def test_truncated_imagej_stack_is_not_read_as_its_first_plane(path, caplog):
    caplog.set_level(logging.CRITICAL, logger="tifffile")
    stack = np.stack([GREY] * 5)
    tifffile.imwrite(path, stack, imagej=True, metadata={"axes": "ZYX"})
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    with pytest.raises(ImageReadError, match=r"cells.tif: .*copy or export it again"):
        open_image(path)


def test_damaged_strip_is_an_error_with_its_number(path):
    tifffile.imwrite(path, GREY, rowsperstrip=25, compression="deflate")
    offsets, _ = strip_tags(path)
    data = bytearray(path.read_bytes())
    data[offsets.value[1] : offsets.value[1] + 40] = b"\xff" * 40
    path.write_bytes(data)
    with open_image(path) as source:
        np.testing.assert_array_equal(source.read_rows(0, 20)[:, :, 0], GREY[:20])
        for _ in range(2):  # also when asked again
            with pytest.raises(ImageReadError, match=r"unsupported TIFF strip or tile 1"):
                source.read_rows(0, HEIGHT)


def test_file_without_an_image_is_refused(path):
    path.write_bytes(b"II*\0\x08\0\0\0\0\0\0\0\0\0")
    with pytest.raises(ImageReadError, match=r"cells.tif: "):
        open_image(path)


def test_pixel_limits_apply_before_anything_is_decoded(path, monkeypatch):
    options = {"compression": "deflate", "shape": (4000, 4000), "dtype": np.uint8}
    tifffile.imwrite(path, iter([np.zeros((4000, 4000), np.uint8)]), rowsperstrip=4000, **options)
    with pytest.raises(ImageReadError, match=r"found 4,000 × 4,000 = 16,000,000 pixels.*1,000,000"):
        open_image(path, ReadOptions(max_pixels=1_000_000))
    monkeypatch.setattr(limits, "MAX_DECODED_PIXELS", 10**6)
    with pytest.raises(
        ImageReadError, match=r"in one strip .* = 16,000,000 pixels, .*--max-pixels"
    ):
        open_image(path)
    monkeypatch.setattr(limits, "MAX_DECODED_PIXELS", 10**9)
    monkeypatch.setattr(limits, "MAX_DECODED_BYTES", 2**20)
    with pytest.raises(
        ImageReadError,
        match=r"in one strip .* 15 MiB to .*, expected at most 1 MiB.*--max-pixels 16000000",
    ):
        open_image(path)
    assert_reads(path, np.zeros((4000, 4000), np.uint8), max_pixels=16_000_000)


def test_file_that_shrinks_after_opening_is_an_error(path):
    tifffile.imwrite(path, GREY)
    with open_image(path) as source:
        path.write_bytes(path.read_bytes()[:1000])
        with pytest.raises(ImageReadError, match=r"found 1,000 bytes, expected at least"):
            source.read_rows(0, HEIGHT)


def test_padding_of_a_small_tile_does_not_count_as_pixels(path):
    image = np.arange(10_000, dtype=np.uint16).reshape(100, 100)
    tifffile.imwrite(path, image, tile=(256, 256), compression="zlib")
    assert_reads(path, image, max_pixels=10_000)
    with pytest.raises(ImageReadError, match="expected at most 9,999"):
        open_image(path, ReadOptions(max_pixels=9_999))


def test_padding_of_a_huge_tile_is_refused(path):
    image = np.zeros((100, 100), np.uint8)
    tifffile.imwrite(path, image, tile=(4096, 4096), compression="zlib")
    with pytest.raises(ImageReadError, match="in one strip or row of tiles = 16,777,216 pixels"):
        open_image(path, ReadOptions(max_pixels=10_000))
