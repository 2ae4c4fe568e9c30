"""The chain of pages: loops, other images' pages, and descriptions that must not be parsed."""

import struct

import numpy as np
import pytest
import tifffile

from tileconv.errors import InputError
from tileconv.stores.tiff import chain
from tileconv.stores.tiff.reader import TiffSource

IMAGE = np.arange(40 * 50, dtype="uint16").reshape(40, 50)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "a.tif"


def refused(path, match):
    """Opening raises, in one line that names the file."""
    with pytest.raises(InputError, match=match) as caught, TiffSource(path):
        pass
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)


def write_pyramid(path, **options):
    with tifffile.TiffWriter(path, **options) as writer:
        writer.write(IMAGE, subifds=2, tile=(16, 16), metadata=None)
        for step in (2, 4):
            writer.write(IMAGE[::step, ::step], subfiletype=1, tile=(16, 16), metadata=None)


def patch(path, at, layout, *values):
    data = bytearray(path.read_bytes())
    struct.pack_into(layout, data, at, *values)
    path.write_bytes(data)


@pytest.mark.parametrize("bigtiff", [False, True])
@pytest.mark.parametrize("byteorder", "<>")
def test_a_page_that_is_its_own_subifd(path, bigtiff, byteorder):
    write_pyramid(path, bigtiff=bigtiff, byteorder=byteorder)
    with TiffSource(path, level=2) as source:
        assert source.raster.spatial == (10, 13)
    with tifffile.TiffFile(path) as tif:
        tag, start = tif.pages[0].tags[330], tif.pages[0].offset
    patch(path, tag.valueoffset, byteorder + ("Q" if bigtiff else "I"), start)
    refused(path, "page 0 has itself or its like as SubIFD")


def test_millions_of_subifds(path):
    write_pyramid(path)
    with tifffile.TiffFile(path) as tif:
        tag = tif.pages[0].tags[330]
    patch(path, tag.offset + 4, "<I", 5_000_000)
    refused(path, "tag 330 has 5000000 values; at most 1000")


@pytest.mark.parametrize(
    "text",
    [
        '<?xml version="1.0"?><!DOCTYPE OME [<!ENTITY a "aaaa">]><OME>&a;</OME>',
        '<?xml version="1.0"?><!DOCTYPE OME SYSTEM "http://127.0.0.1/x.dtd"><OME/>',
    ],
)
@pytest.mark.parametrize("tag", [270, 700])
def test_xml_with_entities_is_given_to_no_parser(path, tag, text):
    extratags = [(tag, 2 if tag == 270 else 1, len(text), text.encode(), True)]
    tifffile.imwrite(path, IMAGE, metadata=None, extratags=extratags)
    refused(path, f"the XML in tag {tag} declares")


def test_a_description_of_absurd_size(path, monkeypatch):
    monkeypatch.setattr(chain, "MAX_DESCRIPTION_BYTES", 99)
    tifffile.imwrite(path, IMAGE, metadata=None, description=98 * "a")
    TiffSource(path).close()
    tifffile.imwrite(path, IMAGE, metadata=None, description=99 * "a")
    refused(path, "tag 270 has 100 values, more than 99")


@pytest.mark.parametrize(
    ("code", "value"), [(257, 39), (259, 1), (262, 0), (277, 2), (317, 1), (322, 32), (339, 1)]
)
def test_pages_of_a_stack_that_differ_are_no_stack(path, code, value):
    """They would be decoded as the first one is."""
    stack = np.stack([IMAGE, IMAGE, IMAGE]).astype("int16")
    options = {"compression": "zlib", "tile": (16, 16), "photometric": "minisblack"}
    tifffile.imwrite(path, stack, predictor=True, **options)
    with TiffSource(path) as source:
        assert source.raster.shape == stack.shape
    with tifffile.TiffFile(path) as tif:
        at = tif.pages[0].offset
        for _ in range(2):
            count = struct.unpack_from("<H", path.read_bytes(), at)[0]
            at = struct.unpack_from("<I", path.read_bytes(), at + 2 + 12 * count)[0]
    data = path.read_bytes()
    entries = [at + 2 + 12 * n for n in range(struct.unpack_from("<H", data, at)[0])]
    entry = next(e for e in entries if struct.unpack_from("<H", data, e)[0] == code)
    patch(path, entry + 8, "<I", value)
    refused(path, f"tag {code}" if code != 257 else "tag 257|pages hold")


def test_pages_that_leave_a_default_out_are_alike(path):
    with tifffile.TiffWriter(path) as writer:
        for _ in range(2):
            writer.write(IMAGE, metadata=None, contiguous=False)
    with tifffile.TiffFile(path) as tif:
        at = tif.pages[1].tags[277].offset
    patch(path, at, "<H", 276)  # A tag of no meaning; one sample is what is meant without 277.
    with TiffSource(path) as source:
        assert source.raster.shape == (2, 40, 50)


def test_pixels_of_no_samples(path):
    tifffile.imwrite(path, IMAGE, metadata=None)
    with tifffile.TiffFile(path) as tif:
        at = tif.pages[0].tags[277].offset
    patch(path, at + 8, "<H", 0)
    refused(path, "page 0 has 0 samples in a pixel")


@pytest.mark.parametrize(
    ("layout", "at", "value", "says"),
    [
        ("<H", 2, 11, "tag 277 has no integers"),
        ("<I", 4, 0, "tag 277 has no integers"),
        ("<H", 0, 259, "tag 259 twice"),
        ("<H", 0, 279, "tag 279 twice"),
    ],
)
def test_tags_that_say_how_pixels_are_stored_say_it_once_in_integers(path, layout, at, value, says):
    tifffile.imwrite(path, IMAGE, metadata=None)
    with tifffile.TiffFile(path) as tif:
        entry = tif.pages[0].tags[277].offset
    patch(path, entry + at, layout, value)
    refused(path, says)
