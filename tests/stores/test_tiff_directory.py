from __future__ import annotations

import struct

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tileconv.core.raster import Raster
from tileconv.stores.tiff.directory import FileMap
from tileconv.stores.tiff.layout import tiff_layout, tiff_map
from tileconv.stores.tiff.tags import TiffTags


def map_of(shape: tuple[int, ...], dims: str, tags: TiffTags | None = None) -> FileMap:
    return tiff_map(tiff_layout(Raster(shape, np.dtype(np.uint8), tuple(dims)), tags=tags))


def file_of(places: FileMap) -> tuple[bytearray, np.ndarray, np.ndarray]:
    """A file without pixels, its offsets and its counts; every byte may be written once."""
    offsets = np.arange(places.tiles, dtype=np.uint64) * 7 + places.data_at
    counts = np.arange(places.tiles, dtype=np.uint64) + 1
    file, written = bytearray(places.data_at), bytearray(places.data_at)
    for at, data in [
        (0, places.header()),
        (16, places.values),
        (places.offsets_at, offsets.tobytes()),
        (places.counts_at, counts.tobytes()),
        *((at, bytes(data)) for at, data in places.directories(offsets, counts)),
    ]:
        assert not any(written[at : at + len(data)])
        file[at : at + len(data)] = data
        written[at : at + len(data)] = b"\1" * len(data)
    assert all(written)
    assert len(file) == places.data_at
    return file, offsets, counts


def directories(file: bytes) -> list[dict[int, tuple[int, bytes]]]:
    """Count and value of every tag of every directory, as the BigTIFF specification has it."""
    sizes = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 7: 1, 12: 8, 16: 8}
    assert struct.unpack_from("<2sHHH", file) == (b"II", 43, 8, 0)
    (at,) = struct.unpack_from("<Q", file, 8)
    found = []
    while at:
        assert at % 8 == 0
        (entries,) = struct.unpack_from("<Q", file, at)
        tags, codes = {}, []
        for entry in range(at + 8, at + 8 + 20 * entries, 20):
            code, kind, count = struct.unpack_from("<HHQ", file, entry)
            length = count * sizes[kind]
            (where,) = struct.unpack_from("<Q", file, entry + 12)
            where = where if length > 8 else entry + 12
            assert where + length <= len(file)
            tags[code] = (count, bytes(file[where : where + length]))
            codes.append(code)
        assert codes == sorted(set(codes))
        found.append(tags)
        (at,) = struct.unpack_from("<Q", file, at + 8 + 20 * entries)
    return found


@given(
    pages=st.integers(1, 4),
    rows=st.integers(1, 1500),
    columns=st.integers(1, 1500),
    samples=st.integers(1, 9),
)
@settings(deadline=None, max_examples=50)
def test_every_byte_has_one_owner_and_every_page_its_tiles(pages, rows, columns, samples):
    places = map_of((pages, rows, columns, samples), "zyxs")
    file, offsets, counts = file_of(places)
    found = directories(file)
    assert len(found) == pages
    per_page = places.page.tiles
    for number, tags in enumerate(found):
        mine = slice(number * per_page, (number + 1) * per_page)
        assert tags[324] == (per_page, offsets[mine].tobytes())
        assert tags[325] == (per_page, counts[mine].tobytes())
        assert tags[256] == (1, struct.pack("<I", columns))
        assert tags[257] == (1, struct.pack("<I", rows))
        assert tags[258] == (samples, struct.pack("<H", 8) * samples)
        assert (270 in tags) == (number == 0)


def test_directories_come_in_batches():
    places = map_of((9000, 4, 4), "zyx")
    offsets = np.zeros(9000, np.uint64)
    batches = [len(data) for _, data in places.directories(offsets, offsets)]
    assert len(batches) > 2
    assert max(batches) <= 1 << 20
    assert len(directories(file_of(places)[0])) == 9000


def test_carried_tags_are_on_every_page_and_stored_once():
    profile = bytes(range(250)) * 40
    tags = TiffTags(
        entries=(
            (34675, 7, len(profile), profile),
            (282, 5, 1, (300, 7)),
            (296, 3, 1, 2),
            (33550, 12, 3, (0.5, 0.25, 0.0)),
            (42113, 2, 4, b"nan\0"),
        )
    )
    places = map_of((50, 30, 30), "zyx", tags)
    file, _, _ = file_of(places)
    for page in directories(file):
        assert page[34675] == (len(profile), profile)
        assert page[282] == (1, struct.pack("<II", 300, 7))
        assert page[296] == (1, struct.pack("<H", 2))
        assert page[33550] == (3, struct.pack("<3d", 0.5, 0.25, 0.0))
        assert page[42113] == (4, b"nan\0")
    assert file.count(profile) == 1


@pytest.mark.parametrize("code", [256, 270, 317, 324, 338])
def test_a_tag_of_the_writer_is_not_carried(code):
    with pytest.raises(ValueError, match=f"tag {code}"):
        map_of((30, 30), "yx", TiffTags(entries=((code, 3, 1, 2),)))


@pytest.mark.parametrize(
    "entry",
    [
        (282, 5, 1, (300, 7, 1, 1)),
        (282, 5, 1, 300),
        (296, 3, 2, 2),
        (296, 3, 1, 70000),
        (296, 3, 1, "2"),
        (700, 1, 5, b"four"),
        (700, 1, 0, b""),
    ],
)
def test_a_tag_holds_what_its_count_says(entry):
    with pytest.raises(ValueError, match=f"tag {entry[0]}"):
        map_of((30, 30), "yx", TiffTags(entries=(entry,)))
