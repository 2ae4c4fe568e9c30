"""An input that was damaged and is repaired: what was done stays, if it is what it would be now."""

import os
import pickle
import re
import shutil

import numpy as np
import pytest
import tifffile
import zarr
from scipy.ndimage import convolve

import tileconv
import tileconv.jobs.run as run_module
from tileconv.core.grid import Region
from tileconv.errors import BadChunkError, OutputExistsError, StorageError
from tileconv.jobs.frames import frames_in
from tileconv.jobs.journal import Journal
from tileconv.jobs.progress import Listener

KERNEL = [[1.0, 2.0, 0.5, -1.0], [0.25, 3.0, -2.0, 1.0]]
TILE = 64
SHAPE = (700, 450)


class Ear(Listener):
    """Remembers what was done before, and may stop a run."""

    def __init__(self, stop_after=None):
        self.stop_after = stop_after
        self.found = None
        self.warnings = []

    def resumed(self, report):
        self.found = report.resumed_tiles

    def warned(self, text):
        self.warnings.append(text)

    def advanced(self, report):
        if self.stop_after is not None and report.tiles >= self.stop_after:
            raise KeyboardInterrupt


@pytest.fixture(autouse=True)
def small_tiles(monkeypatch):
    # Each tile recorded alone: what is not believed is done again record by record.
    monkeypatch.setattr("tileconv.jobs.journal.FLUSH_S", 0.0)
    monkeypatch.setattr("tileconv.jobs.plan.MAX_TILE_PIXELS", 1)
    monkeypatch.setattr("tileconv.stores.zarr.layout.SHARD_BYTES_MAX", 1)


@pytest.fixture(scope="module")
def pixels():
    return np.random.default_rng(0).integers(1, 255, SHAPE, np.uint8)


@pytest.fixture
def slide(tmp_path, pixels):
    path = tmp_path / "in.tif"
    tifffile.imwrite(path, pixels, tile=(TILE, TILE), compression="deflate")
    return path


@pytest.fixture
def job(tmp_path, slide):
    return {
        "input": {"path": str(slide)},
        "kernel": {"weights": KERNEL},
        "output": {"path": str(tmp_path / "out.tif"), "tile": TILE, "dtype": "float32"},
        "run": {"workers": 1, "memory": "4GiB"},
    }


def expected(pixels):
    return convolve(pixels.astype(float), np.array(KERNEL), mode="reflect", origin=-1)


def right(tmp_path, pixels):
    return np.allclose(tifffile.imread(tmp_path / "out.tif"), expected(pixels), atol=1e-3)


def spoil(path, tile):
    """Damage one tile of a TIFF; returns the bytes of the whole file."""
    whole = path.read_bytes()
    with tifffile.TiffFile(path) as tif:
        at = tif.pages[0].dataoffsets[tile]
    path.write_bytes(whole[:at] + b"\xff" * 40 + whole[at + 40 :])
    return whole


LAST = 11 * 8 - 1
REPAIR = (
    r"in\.tif: page 0, tile 87 \(row 10, column 7\), bytes \d+ to \d+, .*; "
    r"tile \d+, plane 0, rows \d+:\d+, columns \d+:\d+; restore the file"
)


def test_a_repaired_input_is_gone_on_with(tmp_path, job, slide, pixels):
    whole = spoil(slide, LAST)
    with pytest.raises(BadChunkError, match=REPAIR):
        tileconv.run(job)
    slide.unlink()
    slide.write_bytes(whole + b"a program's signature")
    ear = Ear()
    tileconv.run(job, listener=ear)
    assert ear.found > 50
    assert right(tmp_path, pixels)


def test_an_input_that_was_cut_short_between_two_runs_is_gone_on_with(tmp_path, job, slide, pixels):
    with pytest.raises(KeyboardInterrupt):
        tileconv.run(job, listener=Ear(stop_after=40))
    whole = slide.read_bytes()
    os.truncate(slide, len(whole) // 2)
    with pytest.raises(BadChunkError, match="cut short"):
        tileconv.run(job)
    slide.unlink()
    slide.write_bytes(whole)
    ear = Ear()
    tileconv.run(job, listener=ear)
    assert ear.found >= 40
    assert right(tmp_path, pixels)


def test_another_input_is_refused_also_after_damage(tmp_path, job, slide, pixels):
    spoil(slide, LAST)
    with pytest.raises(BadChunkError):
        tileconv.run(job)
    other = pixels.copy()
    other[300, 200] ^= 1
    tifffile.imwrite(slide, other, tile=(TILE, TILE), compression="deflate")
    with pytest.raises(OutputExistsError, match=r"input: .*other pixels around rows .*--restart"):
        tileconv.run(job)
    tileconv.run(job, restart=True)
    assert right(tmp_path, other)


def test_another_input_without_damage_is_refused_at_once(tmp_path, job, slide, pixels):
    with pytest.raises(KeyboardInterrupt):
        tileconv.run(job, listener=Ear(stop_after=40))
    os.utime(slide, ns=(1, 1))
    with pytest.raises(OutputExistsError, match="input: "):
        tileconv.run(job)


@pytest.mark.parametrize("layout", [{}, {"shards": (128, 128)}, {"zarr_format": 2}])
def test_a_zarr_of_which_a_chunk_was_written_anew_is_another_input(tmp_path, job, pixels, layout):
    path = tmp_path / "in.zarr"
    array = zarr.create_array(path, shape=SHAPE, chunks=(TILE, TILE), dtype="uint8", **layout)
    array[...] = pixels
    job["input"] = {"path": str(path)}
    with pytest.raises(KeyboardInterrupt):
        tileconv.run(job, listener=Ear(stop_after=40))
    array[699, 449] ^= 1
    with pytest.raises(OutputExistsError, match="input: .*chunks and metadata of"):
        tileconv.run(job)


def test_bad_tiles_are_filled_and_listed(tmp_path, job, slide, pixels):
    spoil(slide, 3)
    spoil(slide, LAST)
    job["input"]["on_bad_tile"] = "fill"
    report = tileconv.run(job)
    filled = pixels.copy()
    filled[:TILE, 3 * TILE : 4 * TILE] = 0
    filled[10 * TILE :, 7 * TILE :] = 0
    assert right(tmp_path, filled)
    assert report.as_dict()["bad_chunks"] == 2
    names = " ".join(report.as_dict()["bad_names"])
    assert re.search(r"page 0, tile 3 \(row 0, column 3\).*tile 87", names)


def test_bad_tiles_of_a_file_cut_short_are_filled(tmp_path, job, slide, pixels):
    with tifffile.TiffFile(slide) as tif:
        end = tif.pages[0].dataoffsets[80] + 10
    os.truncate(slide, end)
    job["input"]["on_bad_tile"] = "fill"
    report = tileconv.run(job)
    filled = pixels.copy()
    filled[10 * TILE :] = 0
    assert right(tmp_path, filled)
    assert report.bad.count == 8


def test_filled_tiles_are_not_believed_by_a_run_that_refuses_them(tmp_path, job, slide, pixels):
    whole = spoil(slide, 3)
    filling = {**job, "input": {"path": str(slide), "on_bad_tile": "fill"}}
    with pytest.raises(KeyboardInterrupt):
        tileconv.run(filling, listener=Ear(stop_after=40))
    with pytest.raises(BadChunkError, match="tile 3 "):
        tileconv.run(job)
    slide.write_bytes(whole)
    ear = Ear()
    report = tileconv.run(job, listener=ear)
    assert 20 < report.resumed_tiles < 40
    assert "done again" in ear.warnings[0]
    assert report.bad.count == 0
    assert right(tmp_path, pixels)


def test_a_run_that_fills_goes_on_with_tiles_it_has_filled(tmp_path, job, slide, pixels):
    spoil(slide, 3)
    job["input"]["on_bad_tile"] = "fill"
    with pytest.raises(KeyboardInterrupt):
        tileconv.run(job, listener=Ear(stop_after=40))
    report = tileconv.run(job)
    assert report.resumed_tiles >= 40
    assert report.bad.count == 1


def test_absent_chunks_are_not_believed_by_a_run_that_refuses_them(tmp_path, job, pixels):
    path = tmp_path / "in.zarr"
    array = zarr.create_array(path, shape=SHAPE, chunks=(TILE, TILE), dtype="uint8")
    array[...] = pixels
    chunk = path / "c" / "0" / "3"
    shutil.move(chunk, tmp_path / "kept")
    job["input"] = {"path": str(path)}
    with pytest.raises(KeyboardInterrupt):
        tileconv.run(job, listener=Ear(stop_after=40))
    strict = {**job, "input": {"path": str(path), "missing": "error"}}
    with pytest.raises(BadChunkError, match=r"chunk \(0, 3\)"):
        tileconv.run(strict)
    shutil.move(tmp_path / "kept", chunk)
    report = tileconv.run(strict)
    assert 20 < report.resumed_tiles < 40
    assert report.absent.count == 0
    assert right(tmp_path, pixels)


def test_the_first_cause_is_told_though_the_record_fails_too(tmp_path, job, slide, monkeypatch):
    spoil(slide, LAST)

    record = Journal.record
    calls = []

    def full(*args):
        calls.append(args)
        if len(calls) > 1:
            raise StorageError("the record cannot be written")
        record(*args)

    # The first tile is recorded; all others wait for the end.
    monkeypatch.setattr("tileconv.jobs.journal.FLUSH_S", 1e9)
    monkeypatch.setattr(Journal, "record", full)
    with pytest.raises(BadChunkError):
        tileconv.run(job)
    assert len(calls) == 2


def test_every_tile_that_is_made_of_a_filled_chunk_says_so(tmp_path, job, slide, pixels):
    """Also those that find it in the cache: any of them may be the one that is recorded."""
    spoil(slide, 3)
    job["input"]["on_bad_tile"] = "fill"
    with pytest.raises(KeyboardInterrupt):
        tileconv.run(job, listener=Ear(stop_after=40))
    (folder,) = tmp_path.glob(".*.tileconv")
    noted = {
        int(frame.tiles[0, 0]) for frame in frames_in(folder / "journal") if frame.text.get("bad")
    }
    # Tile 3 of the output, and those whose halo reaches into it.
    assert noted >= {2, 3, 4, 11}
    assert len(noted) <= 9


def test_what_is_repaired_piece_by_piece_is_gone_on_with(tmp_path, job, slide, pixels):
    whole = spoil(slide, 3)
    half = slide.read_bytes()
    spoil(slide, 20)
    job["input"]["on_bad_tile"] = "fill"
    for content in (None, half, None):
        if content is not None:
            slide.write_bytes(content)
        with pytest.raises(KeyboardInterrupt):
            tileconv.run(job, listener=Ear(stop_after=60))
    slide.write_bytes(whole)
    report = tileconv.run(job)
    assert report.bad.count == 0
    assert right(tmp_path, pixels)


def test_a_worker_of_a_run_that_ended_cannot_spoil_the_next(tmp_path, job, pixels, monkeypatch):
    """It writes what it had read before the input was repaired."""
    job["output"]["path"] = str(tmp_path / "out.zarr")
    orphans = []
    usual = run_module.open_sink

    def opened(*args, **kwargs):
        sink = usual(*args, **kwargs)
        orphans.append(pickle.dumps(sink.writer))
        return sink

    monkeypatch.setattr(run_module, "open_sink", opened)
    with pytest.raises(KeyboardInterrupt):
        tileconv.run(job, listener=Ear(stop_after=40))
    late = pickle.loads(orphans[0])

    class Late(Listener):
        def committing(self):
            with pytest.raises(StorageError):
                late.write(0, Region((0, 0), late.layout.unit), np.zeros((64, 64, 1), np.float32))

    tileconv.run(job, listener=Late())
    stored = np.asarray(zarr.open_array(tmp_path / "out.zarr", mode="r")[...])
    np.testing.assert_allclose(stored, expected(pixels), atol=1e-3)


def test_a_zarr_of_which_a_chunk_was_written_in_place_is_another_input(tmp_path, job, pixels):
    path = tmp_path / "in.zarr"
    array = zarr.create_array(path, shape=SHAPE, chunks=(TILE, TILE), dtype="uint8")
    array[...] = pixels
    job["input"] = {"path": str(path)}
    with pytest.raises(KeyboardInterrupt):
        tileconv.run(job, listener=Ear(stop_after=40))
    with (path / "c" / "0" / "0").open("r+b") as chunk:
        chunk.write((path / "c" / "0" / "1").read_bytes())
    with pytest.raises(OutputExistsError, match="input: "):
        tileconv.run(job)


def test_a_record_that_is_damaged_is_never_dropped_without_a_word(tmp_path, job, pixels):
    with pytest.raises(KeyboardInterrupt):
        tileconv.run(job, listener=Ear(stop_after=40))
    (path,) = tmp_path.glob(".*.tileconv/journal")
    whole = path.read_bytes()
    path.write_bytes(whole[:30] + b"?" + whole[31:])
    with pytest.raises(StorageError, match="damaged.*--restart"):
        tileconv.run(job)
    middle = whole.index(b"tcj2", len(whole) // 2)
    path.write_bytes(whole[: middle + 9] + b"?" + whole[middle + 10 :])
    ear = Ear()
    tileconv.run(job, listener=ear)
    assert 5 < ear.found < 35
    assert "damaged within" in ear.warnings[0]
    assert right(tmp_path, pixels)


def test_a_run_that_fills_less_does_not_take_what_is_done_for_its_own(
    tmp_path, job, slide, pixels, monkeypatch
):
    spoil(slide, 3)
    filling = {**job, "input": {"path": str(slide), "on_bad_tile": "fill"}}
    with monkeypatch.context() as patched:
        patched.setattr("tileconv.jobs.staging._remove", lambda _: None)
        tileconv.run(filling)
    with pytest.raises(OutputExistsError, match="exists"):
        tileconv.run(job)
