"""Chains of ten runs of one job, each killed after a random time, and then one that is not.

However often it was killed, the output has the same pixels, and what was recorded is not done
again. ``TILECONV_SOAK_KILLS`` says how many kills the long version makes.
"""

import contextlib
import os
import random
import shutil
import time
from functools import partial
from itertools import count

import numpy as np
import pytest
from harness.driver import KILLED
from harness.jobs import expected, go_on, make_job, make_pixels, read

from tileconv.errors import OutputExistsError

pytestmark = pytest.mark.usefixtures("small_tiles")

LINKS = 10
LINK = 50
TILE_S = 0.004
WORKERS = 2
TILES = 256


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    """An input of 256 tiles."""
    path = tmp_path_factory.mktemp("large") / "in.npy"
    np.save(path, make_pixels(500, 510))
    return path


class Chain:
    """Runs of one job, killed one after another; what they do is drawn from a seed."""

    def __init__(self, start, source, folder, name, *, seed, flush_s, address=None, **options):
        folder.mkdir()
        self._draw = random.Random(seed)
        self._start, self._source, self._output = start, source, folder / name
        self._flush_s, self._options = flush_s, options
        self._cluster = {} if address is None else {"cluster": address}
        self._wanted = expected(np.load(source))
        self._recorded: set[int] = set()
        self.kills = self.commits = self.tiles = 0

    def job(self, **more) -> dict:
        """The job, perhaps with other memory and workers than before."""
        memory, workers = self._draw.choice(["2GiB", "4GiB"]), self._draw.choice([1, WORKERS])
        return make_job(
            self._source, self._output, memory=memory, workers=workers, **self._options, **more
        )

    def kill_one(self) -> None:
        """Start a run and kill it: among its tiles, or, now and then, at once or near its end."""
        tiles, longest_s = self._draw.choice(
            [(LINK, 0.005), (LINK, 0.005), (0, 0.05), (TILES, 0.1)]
        )
        tile_s = TILE_S if tiles < TILES else 0.0
        job = self.job(**self._cluster)
        run = self._start(job, tile_s=tile_s, flush_s=self._flush_s)
        tiles = self._draw.randint(tiles // 2, tiles)
        while not run.said("steps") and (
            not run.said("start") or len(run.recorded if self._cluster else run.finished) < tiles
        ):
            time.sleep(0.001)
        time.sleep(self._draw.uniform(0, longest_s))
        code = run.kill()
        assert code in (KILLED, 0), f"exit code {code}: {run.stderr}"
        self.kills += code == KILLED
        self._recorded |= run.recorded
        self.tiles += len(run.recorded | run.finished)
        if self._flush_s == 0 and not self._cluster:
            assert len(run.finished - run.recorded) <= 2 * WORKERS + 1
        if os.path.lexists(self._output):
            self._take_away()

    def _take_away(self) -> None:
        """The output is there, so it is whole, and the same command says so; begin anew."""
        np.testing.assert_array_equal(read(self._output), self._wanted)
        left = self._output.with_name(f".{self._output.name}.tileconv") / "journal"
        with contextlib.nullcontext() if left.exists() else pytest.raises(OutputExistsError):
            go_on(self.job(), self._wanted)
        assert os.listdir(self._output.parent) == [self._output.name]
        shutil.rmtree(self._output) if self._output.is_dir() else self._output.unlink()
        self._recorded.clear()
        self.commits += 1

    def end(self) -> None:
        """Let a run come to its end: it has done nothing again that was recorded."""
        ear = go_on(self.job(), self._wanted)
        assert len(self._recorded) <= ear.found
        assert not [text for text in ear.warnings if "done again" in text]


def break_chain(start, source, folder, name, seed, **options) -> Chain:
    """Ten kills, and a run to its end."""
    chain = Chain(start, source, folder, name, seed=seed, **options)
    try:
        while chain.kills < LINKS:
            chain.kill_one()
        chain.end()
    except BaseException as error:
        error.add_note(f"chain of {name}, {seed=}, {options}, after {chain.kills} kills")
        raise
    return chain


CHAINS = [
    ("out.tif", {"flush_s": 0.05}),
    ("out.zarr", {"flush_s": 0.05}),
    ("out.tif", {"flush_s": 0.0, "durability": "power"}),
    ("out.zarr", {"flush_s": 0.0, "compression": "deflate"}),
    ("out.zarr", {"flush_s": 0.05, "durability": "power"}),
]


@pytest.mark.parametrize(("number", "chain"), list(enumerate(CHAINS)), ids=str)
def test_ten_kills_in_a_row(number, chain, large, tmp_path, driver):
    name, options = chain
    done = break_chain(unwatched(driver), large, tmp_path / "out", name, number, **options)
    assert done.tiles > LINK


def test_ten_kills_of_the_client_of_a_cluster(large, tmp_path, driver, cluster):
    address = cluster.scheduler.address
    folder, start = tmp_path / "out", unwatched(driver)
    assert break_chain(start, large, folder, "out.tif", 5, flush_s=0.0, address=address).tiles


def unwatched(driver):
    """Starts runs of which every call is the operating system's own."""
    return partial(driver.start, watched=False)


@pytest.mark.soak
def test_a_thousand_kills(large, tmp_path, driver, cluster):
    """``TILECONV_SOAK_KILLS`` of them, 1,000 where it is not set; the seed is ``TILECONV_SEED``.

    Every eighth chain is of clients of a cluster.
    """
    wanted = int(os.environ.get("TILECONV_SOAK_KILLS", "1000"))
    first = int(os.environ.get("TILECONV_SEED", "1000"))
    kills = commits = 0
    for seed in count(first):
        if kills >= wanted:
            break
        name, options = CHAINS[seed % len(CHAINS)]
        if seed % 8 == 0:
            options = options | {"address": cluster.scheduler.address}
        folder = tmp_path / str(seed)
        done = break_chain(unwatched(driver), large, folder, name, seed, **options)
        shutil.rmtree(folder)
        kills, commits = kills + done.kills, commits + done.commits
    print(f"{kills} kills, {commits} of runs that had given the output its name")
