"""The record of finished tiles: what is read is what was written, up to where it was cut short."""

from dataclasses import replace

import numpy as np
import pytest

from tileconv.core.grid import TileGrid
from tileconv.errors import OutputExistsError, StorageError
from tileconv.jobs import journal as journal_module
from tileconv.jobs.batches import BatchResult
from tileconv.jobs.frames import frames_in
from tileconv.jobs.journal import (
    FLUSH_TILES,
    NAME,
    Journal,
    has_tiles,
    is_finished,
    note_bad_input,
)
from tileconv.jobs.tile_task import TileResult
from tileconv.stores.absent import Absences
from tileconv.stores.sink import Receipt

SETTINGS = {"kernel": "3 x 4", "input": "a.tif"}
GRID = TileGrid((100, 70), (16, 32), 3, 2)


def tile(index: int, *, part: str = "", units: int = 2) -> TileResult:
    places = [(10 * index + n, 7 * index, index + n, 2**32 - 1 - index) for n in range(units)]
    return TileResult(
        index=index,
        pixels=100 + index,
        receipt=Receipt(np.array(places, np.uint64), part),
        input_checksum=2**32 - 9 * index,
        clipped=index,
        nans=1,
        absent=Absences(np.array([index, 5], np.int64), (f"chunk {index}",)),
        bad=Absences(np.array([7], np.int64), (f"bad {index}",)),
        decoded_bytes=0,
        read_s=0.0,
        compute_s=0.0,
        write_s=0.0,
    )


def batch(*tiles: TileResult) -> BatchResult:
    return BatchResult("here", 0, tiles)


def recorded(folder) -> dict:
    """Units by tile, as the journal of a folder has them."""
    journal = Journal(folder, SETTINGS, GRID)
    found = {}
    for frame in journal.frames():
        units = frame.receipt.units.reshape(len(frame.tiles), -1, 4)
        for (index, value), own in zip(frame.tiles.tolist(), units, strict=True):
            assert value == tile(index).input_checksum
            found[index] = (frame.receipt.part, own.tolist())
    return found


def written(folder, indices, parts=("",)) -> Journal:
    journal = Journal(folder, SETTINGS, GRID)
    for index in indices:
        journal.add(batch(tile(index, part=parts[index % len(parts)])))
    journal.flush()
    return journal


def test_what_is_read_is_what_was_written(tmp_path):
    written(tmp_path, range(10), parts=("", "vm-1", "vm-2"))
    assert recorded(tmp_path) == {
        n: (("", "vm-1", "vm-2")[n % 3], tile(n).receipt.units.tolist()) for n in range(10)
    }


def test_counts_are_kept(tmp_path):
    journal = Journal(tmp_path, SETTINGS, GRID)
    journal.add(batch(*(tile(n) for n in range(4))))
    (frame,) = Journal(tmp_path, SETTINGS, GRID).frames()
    assert frame.totals.pixels == 406
    assert (frame.totals.clipped, frame.totals.nans) == (6, 4)
    assert frame.totals.absences.numbers.tolist() == [0, 5, 1, 5, 2, 5, 3, 5]
    assert frame.totals.absences.names == ("chunk 0", "chunk 1", "chunk 2", "chunk 3")
    assert frame.totals.damage.numbers.tolist() == [7, 7, 7, 7]
    assert frame.totals.damage.names == ("bad 0", "bad 1", "bad 2", "bad 3")


def test_the_tiles_of_the_first_run_stay(tmp_path):
    written(tmp_path, [1])
    journal = Journal(tmp_path, SETTINGS, TileGrid((100, 70), (100, 70), 3))
    assert journal.resumed
    assert journal.grid == GRID


def test_other_settings_are_refused_by_name(tmp_path):
    written(tmp_path, [1])
    with pytest.raises(OutputExistsError, match=r"kernel: 3 x 4 there, 5 x 5 here.*--restart"):
        Journal(tmp_path, SETTINGS | {"kernel": "5 x 5"}, GRID)


def test_the_record_of_another_version_is_refused_and_left_as_it_is(tmp_path, monkeypatch):
    old, new = ({"version": version} for version in ("0.1.0", "0.2.0"))
    journal = Journal(tmp_path, SETTINGS | old, GRID)
    journal.add(batch(tile(1)))
    journal.flush()
    before = (tmp_path / NAME).read_bytes()
    monkeypatch.setattr(journal_module, "GATHER_FRAMES", 1)
    # Whatever else is different, it is the version that says why.
    match = r"an unfinished run of tileconv 0\.1\.0, this is tileconv 0\.2\.0; finish it.*--restart"
    for other in ({}, {"kernel": "5 x 5", "input": "b.tif"}):
        with pytest.raises(OutputExistsError, match=match):
            Journal(tmp_path, SETTINGS | other | new, GRID)
        assert (tmp_path / NAME).read_bytes() == before


def test_every_cut_leaves_the_whole_frames_before_it(tmp_path):
    path = tmp_path / NAME
    ends = [0]
    journal = Journal(tmp_path, SETTINGS, GRID)
    ends.append(path.stat().st_size)
    for index in range(4):
        journal.add(batch(tile(index)))
        journal.flush()
        ends.append(path.stat().st_size)
    whole = path.read_bytes()
    assert ends[-1] == len(whole)
    for size in range(len(whole)):
        path.write_bytes(whole[:size])
        frames = sum(end <= size for end in ends[1:])
        assert has_tiles(tmp_path) == (frames > 1)
        assert sorted(recorded(tmp_path)) == list(range(max(0, frames - 1)))


def test_a_changed_byte_ends_the_record(tmp_path):
    path = tmp_path / NAME
    written(tmp_path, [0])
    first = path.stat().st_size
    written(tmp_path, [1])
    second = path.stat().st_size
    written(tmp_path, [2])
    whole = path.read_bytes()
    for at in range(first, second):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 64]) + whole[at + 1 :])
        assert list(recorded(tmp_path)) == [0]


def test_a_torn_tail_is_written_over(tmp_path):
    written(tmp_path, [0, 1])
    path = tmp_path / NAME
    path.write_bytes(path.read_bytes() + b"tcj2" + bytes(100))
    written(tmp_path, [2])
    assert sorted(recorded(tmp_path)) == [0, 1, 2]


def test_a_tile_that_took_its_time_is_recorded_at_once(tmp_path):
    """Also right after another: the next may be minutes away."""
    journal = Journal(tmp_path, SETTINGS, GRID)
    for index in (0, 1):
        journal.add(batch(replace(tile(index), compute_s=1.0)))
    assert sorted(recorded(tmp_path)) == [0, 1]


def test_many_tiles_are_recorded_without_waiting(tmp_path):
    journal = Journal(tmp_path, SETTINGS, GRID)
    journal.add(batch(*(tile(n) for n in range(FLUSH_TILES))))
    assert has_tiles(tmp_path)


def test_nothing_is_recorded_is_no_run_to_go_on_with(tmp_path):
    assert not has_tiles(tmp_path)
    journal = Journal(tmp_path, SETTINGS, GRID)
    assert not journal.resumed
    assert not has_tiles(tmp_path)
    (tmp_path / NAME).write_bytes(b"something else entirely")
    assert not Journal(tmp_path, SETTINGS, GRID).resumed


def test_a_record_of_other_tiles_is_no_record(tmp_path):
    written(tmp_path, [1])
    with pytest.raises(StorageError, match=r"\(100, 70\), not \(100, 71\).*--restart"):
        Journal(tmp_path, SETTINGS, TileGrid((100, 71), (16, 32), 3))
    written(tmp_path, [len(GRID)])
    with pytest.raises(StorageError, match=r"names tile \d+ of \d+.*--restart"):
        list(Journal(tmp_path, SETTINGS, GRID).frames())


def test_a_finished_run_is_told_by_the_file_that_has_the_name(tmp_path):
    journal = written(tmp_path, [1])
    result, output = tmp_path / "result", tmp_path / "output"
    result.touch()
    journal.committing(result)
    assert not is_finished(tmp_path, output)
    output.touch()
    assert not is_finished(tmp_path, output)
    result.replace(output)
    assert is_finished(tmp_path, output)


@pytest.mark.parametrize("parts", [("",), ("", "vm-1", "vm-2")])
def test_small_records_are_put_together(tmp_path, monkeypatch, parts):
    """A run of days makes millions; the next one has to read them in seconds."""
    monkeypatch.setattr(journal_module, "GATHER_FRAMES", 20)
    monkeypatch.setattr(journal_module, "LARGE_TILES", 10)
    tiles = range(len(GRID))
    written(tmp_path, tiles, parts=parts)
    note_bad_input(tmp_path, "a chunk")
    frames = list(frames_in(tmp_path / NAME))
    assert len(frames) < 20 + 2 + len(GRID) // 10 + len(parts)
    assert recorded(tmp_path) == {
        n: (parts[n % len(parts)], tile(n).receipt.units.tolist()) for n in tiles
    }
    totals = [frame.totals for frame in Journal(tmp_path, SETTINGS, GRID).frames()]
    assert sum(one.pixels for one in totals) == sum(tile(n).pixels for n in tiles)
    assert sorted(name for one in totals for name in one.absent_names) == sorted(
        f"chunk {n}" for n in tiles
    )
    assert any("bad_input" in frame.text for frame in frames_in(tmp_path / NAME))


def test_records_that_are_referred_to_by_number_keep_it(tmp_path, monkeypatch):
    monkeypatch.setattr(journal_module, "GATHER_FRAMES", 20)
    monkeypatch.setattr(journal_module, "FLUSH_S", 0.0)
    journal = written(tmp_path, range(5))
    (third,) = [frame for frame in journal.frames() if frame.indices.tolist() == [2]]
    journal.numbered = True
    for index in range(5, 60):
        journal.add(batch(tile(index)))
    journal.drop({third.number})
    assert sorted(recorded(tmp_path)) == [0, 1, *range(3, 60)]
