"""What encoded images say of their size, against the encoders that wrote them."""

import imagecodecs
import numpy as np
import pytest
import pyvips
import tifffile

from tileconv.core.grid import Region
from tileconv.errors import BadChunkError
from tileconv.stores.tiff.codestreams import codestream_fault, declared_size
from tileconv.stores.tiff.reader import TiffSource

CODES = {
    "jpeg8": 7,
    "jpeg2k": 34712,
    "png": 34933,
    "webp": 50001,
    "lerc": 34887,
    "jpegxr": 34934,
    "jpegxl": 50002,
}
MOST = 1 << 22


def encoded(codec, image, **options):
    return bytes(getattr(imagecodecs, f"{codec}_encode")(image, **options))


@pytest.mark.parametrize("samples", [1, 3])
@pytest.mark.parametrize(
    "shape", [(16, 16), (8, 264), (300, 500), (600, 500), (1000, 9), (17, 600)]
)
@pytest.mark.parametrize("codec", CODES)
def test_declared_sizes(codec, shape, samples):
    if codec == "webp" and samples == 1:
        pytest.skip("WebP is in colour")
    image = np.zeros((*shape, 3) if samples == 3 else shape, np.uint8)
    data = encoded(codec, image)
    declared = declared_size(CODES[codec], data, MOST)
    assert declared is not None
    assert declared[:2] == shape
    assert declared.components in (0, samples)
    assert codestream_fault(CODES[codec], data) is None
    for cut in range(0, len(data), 1 + len(data) // 97):
        short = declared_size(CODES[codec], data[:cut], MOST)
        assert short is None or short[:2] == shape


@pytest.mark.parametrize("compress", [imagecodecs.zlib_encode, imagecodecs.zstd_encode])
def test_lerc_inside_of_another_codec(compress):
    data = bytes(compress(encoded("lerc", np.zeros((300, 500), np.float32))))
    assert declared_size(34887, data, MOST) == (300, 500, 1)
    bomb = bytes(compress(bytes(64 << 20)))
    assert declared_size(34887, bomb, MOST) is None


def test_jpeg_xl_in_boxes():
    data = encoded("jpegxl", np.zeros((300, 500), np.uint8), usecontainer=True)
    assert data.startswith(b"\0\0\0\x0cJXL ")
    assert declared_size(50002, data, MOST) == (300, 500, 0)


@pytest.mark.parametrize("codec", sorted(set(CODES) - {"jpeg8", "webp"}))
def test_an_encoded_image_larger_than_its_tile_is_not_decoded(tmp_path, codec):
    path = tmp_path / "a.tif"
    tifffile.imwrite(
        path, np.zeros((16, 16), np.uint8), tile=(16, 16), compression=CODES[codec], metadata=None
    )
    bomb = encoded(codec, np.zeros((3000, 4000), np.uint8))
    with tifffile.TiffFile(path, mode="r+b") as tif:
        size = path.stat().st_size
        tif.pages[0].tags[324].overwrite(size)
        tif.pages[0].tags[325].overwrite(len(bomb))
    with path.open("ab") as file:
        file.write(bomb)
    with (
        TiffSource(path) as source,
        pytest.raises(
            BadChunkError,
            match=r"declares 3000 x 4000 pixels in a tile of 16 x 16|more than the \d+ bytes",
        ),
    ):
        source.read(0, Region((0, 0), (16, 16)), np.zeros((16, 16, 1)))


def test_a_jpeg_with_bytes_between_its_segments():
    data = encoded("jpeg8", np.zeros((16, 16), np.uint8))
    at = data.index(b"\xff\xdb")
    assert "row of segments" in (codestream_fault(7, data[:at] + b"\0\0" + data[at:]) or "")
    at = data.index(b"\xff\xda")
    at += data[at + 3]
    assert data[at] == 63
    assert "coefficients" in (codestream_fault(7, data[:at] + b"\1" + data[at + 1 :]) or "")
    # Some encoders leave it out, and mean all.
    assert codestream_fault(7, data[:at] + b"\0" + data[at + 1 :]) is None
    assert "no end" in (codestream_fault(7, data[:-2]) or "")


def test_codecs_that_are_not_open_are_refused(tmp_path):
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, np.zeros((16, 16), np.uint8), metadata=None)
    with tifffile.TiffFile(path, mode="r+b") as tif:
        tif.pages[0].tags[259].overwrite(48124)
    with pytest.raises(Exception, match="method 48124, which tileconv does not decode"):
        TiffSource(path)


def restarting():
    """A JPEG with restart markers, as libvips writes it, and where they are."""
    image = np.random.default_rng(0).integers(0, 255, (64, 96), np.uint8)
    data = pyvips.Image.new_from_array(image).jpegsave_buffer(restart_interval=2)
    return data, [
        at for at in range(len(data) - 1) if data[at] == 255 and 0xD0 <= data[at + 1] < 0xD8
    ]


def test_a_jpeg_that_ends_within_its_coded_data_is_damaged():
    """libjpeg fills the rest with grey, and says so to nobody."""
    image = np.random.default_rng(0).integers(0, 255, (64, 96, 3), np.uint8)
    data = encoded("jpeg8", image)
    middle = len(data) // 2
    assert "ends after" in codestream_fault(7, data[:middle] + b"\xff\xd9" + data[middle + 2 :])
    assert "marker C0" in codestream_fault(7, data[:middle] + b"\xff\xc0" + data[middle + 2 :])
    # Writers pad codestreams.
    for padding in (b"\0", b"\xff", bytes(1000)):
        assert codestream_fault(7, data + padding) is None


def test_a_jpeg_that_lacks_a_part_between_restarts_is_damaged():
    data, restarts = restarting()
    assert len(restarts) > 8
    assert codestream_fault(7, data) is None
    without = data[: restarts[3]] + data[restarts[4] :]
    assert "lacks coded data" in codestream_fault(7, without)


def test_a_progressive_jpeg_has_tables_among_its_scans():
    image = np.random.default_rng(0).integers(0, 255, (64, 96, 3), np.uint8)
    data = pyvips.Image.new_from_array(image).jpegsave_buffer(interlace=True)
    assert data.count(b"\xff\xda") > 1
    assert codestream_fault(7, data) is None
