"""Graphs of many blocks: how many tasks, how large, what travels, and what a worker opens."""

import pickle
from collections import Counter
from itertools import product

import dask
import dask.array as da
import numpy as np
import pytest
import zarr
from dask._task_spec import convert_legacy_graph
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage, signal

from tileconv import lazy
from tileconv.core.grid import Region
from tileconv.lazy import blocks

RNG = np.random.default_rng(11)
KERNEL = RNG.normal(size=(5, 4))
PADS = {"reflect": "symmetric", "wrap": "wrap", "nearest": "edge", "mirror": "reflect"}


def kinds(result):
    """How many tasks of each kind the layer of a result has."""
    layer = result.dask.layers[result.name]
    names = (key[0] if isinstance(key, tuple) else key for key in layer)
    return Counter(name.removeprefix(result.name).removeprefix("-") or "blocks" for name in names)


def uneven(total):
    """A strategy: lengths of a few chunks, some of one pixel."""
    cuts = st.sets(st.integers(1, total - 1), max_size=5)
    return cuts.map(lambda c: tuple(int(d) for d in np.diff([0, *sorted(c), total])))


@settings(deadline=None, max_examples=150)
@given(data=st.data(), mode=st.sampled_from(["constant", *PADS]), seed=st.integers(0, 999))
def test_strips_hold_what_a_block_reads(data, mode, seed):
    rng = np.random.default_rng(seed)
    shape = data.draw(st.tuples(st.integers(2, 40), st.integers(2, 40)))
    size = data.draw(st.tuples(st.integers(1, 6), st.integers(1, 9)))
    origin = tuple(data.draw(st.integers(-(k // 2), (k - 1) // 2)) for k in size)
    chunks = tuple(data.draw(uneven(n)) for n in shape)
    raster, weights = rng.integers(-99, 99, shape), rng.integers(-9, 9, size)
    pad = [(k, k) for k in size]
    wide = np.pad(raster, pad, PADS.get(mode, "constant"))
    expected = ndimage.correlate(wide, weights, mode="constant", origin=origin)
    expected = expected[tuple(slice(k, k + n) for k, n in zip(size, shape, strict=True))]
    chunked = da.from_array(raster, chunks=chunks)
    result = lazy.correlate(chunked, weights, None, mode, origin=origin)
    np.testing.assert_array_equal(result.compute(scheduler="synchronous"), expected)
    # At most the columns of each chunk, and the rows that each column of blocks reads.
    assert kinds(result).total() <= 3 * chunked.npartitions + 1
    assert result.chunks == chunked.chunks


@settings(deadline=None, max_examples=60)
@given(
    data=st.data(),
    mode=st.sampled_from(["full", "same", "valid"]),
    boundary=st.sampled_from(["fill", "wrap", "symm"]),
)
def test_strips_of_every_mode(data, mode, boundary):
    shape = data.draw(st.tuples(st.integers(9, 40), st.integers(9, 40)))
    raster = np.random.default_rng(shape[0]).integers(-99, 99, shape)
    weights = np.arange(2 * 5).reshape(2, 5) - 3
    chunked = da.from_array(raster, chunks=tuple(data.draw(uneven(n)) for n in shape))
    result = lazy.convolve2d(chunked, weights, mode, boundary).compute(scheduler="synchronous")
    np.testing.assert_array_equal(result, signal.convolve2d(raster, weights, mode, boundary))


COUNTS = [
    # weights, origin, mode, tasks that cut columns, tasks that cut rows; 6 x 8 chunks
    ((5, 4), 0, "reflect", 48, 48),
    ((5, 4), 0, "wrap", 48, 48),
    ((5, 1), 0, "reflect", 0, 48),
    ((1, 4), 0, "wrap", 48, 0),
    # Reach to one side only: the last column (its left edge unread), the last row.
    ((1, 2), 0, "reflect", 42, 0),
    ((3, 2), (-1, 0), "reflect", 42, 40),
    ((3, 2), (1, -1), "reflect", 42, 40),
    ((3, 2), (1, -1), "wrap", 48, 48),
    ((1, 1), 0, "reflect", 0, 0),
]


@pytest.mark.parametrize(("size", "origin", "mode", "columns", "rows"), COUNTS)
def test_strips_are_cut_where_somebody_reads_them(size, origin, mode, columns, rows):
    raster = RNG.normal(size=(6 * 20, 8 * 30))
    weights = RNG.normal(size=size)
    chunked = da.from_array(raster, chunks=(20, 30))
    result = lazy.correlate(chunked, weights, mode=mode, origin=origin)
    expected = {"blocks": 48, "columns": columns, "rows": rows, "work": 1}
    assert kinds(result) == {kind: n for kind, n in expected.items() if n}
    whole = ndimage.correlate(raster, weights, mode=mode, origin=origin)
    np.testing.assert_allclose(result, whole, rtol=1e-12, atol=1e-12)


def values(result):
    """The graph of a result, and what each of its tasks returned."""
    graph = convert_legacy_graph(dict(result.dask))
    done, order = {}, dask.order.order(graph)
    for key in sorted(graph, key=order.get):
        done[key] = graph[key](done)
    return graph, done


@pytest.mark.parametrize("bands", [(), (3,)])
@pytest.mark.parametrize("mode", ["reflect", "wrap"])
def test_what_travels_is_edges(mode, bands):
    raster = np.asfortranarray(RNG.normal(size=(*bands, 4 * 50, 5 * 40)))
    chunked = da.from_array(raster, chunks=(*(1 for _ in bands), 50, 40)) * 1
    result = lazy.correlate(chunked, KERNEL, mode=mode, axes=(-2, -1))
    graph, done = values(result)
    for index in product(*map(range, result.numblocks)):
        needs = graph[(result.name, *index)].dependencies - {f"{result.name}-work"}
        assert (chunked.name, *index) in needs
        travels = [done[key] for key in needs - {(chunked.name, *index)}]
        assert all(strip.base is None and strip.flags.c_contiguous for strip in travels)
        # Twice the halo of 4 rows and 3 columns, because edges of both sides are one array.
        assert sum(strip.size for strip in travels) <= 2 * (4 * (40 + 3) + 3 * 50)
        # A chunk can be let go as soon as its block and its edges are made.
        users = [key for key, task in graph.items() if (chunked.name, *index) in task.dependencies]
        assert len(users) <= 3


def test_a_chunk_of_which_most_is_wanted_is_sent_as_it_is():
    raster = RNG.integers(0, 99, (80, 90))
    weights = RNG.integers(0, 9, (22, 9))
    chunked = da.from_array(raster, chunks=(20, (20, 1, 9, 30, 30)))
    for mode, rows in (("mirror", {0, 3}), ("wrap", set())):
        result = lazy.convolve(chunked, weights, mode=mode)
        cut = {"rows": set(), "columns": set()}
        for name, y, x in (key for key in result.dask.layers[result.name] if len(key) == 3):
            if name != result.name:
                kind = name.rpartition("-")[2]
                cut[kind].add(y if kind == "rows" else x)
        # Rows: 10 and 11 of 20 to each side. Columns: 4 and 4 of 9, which is most, and of 1.
        assert cut == {"rows": rows, "columns": {0, 3, 4}}
        np.testing.assert_array_equal(result, ndimage.convolve(raster, weights, mode=mode))


def test_empty_chunks_are_passed_over():
    raster = RNG.integers(0, 99, (40, 60))
    chunks = ((0, 20, 0, 0, 20), (30, 0, 29, 1, 0))
    chunked = da.map_blocks(lambda part: part, da.zeros(raster.shape, chunks=chunks))
    chunked = da.map_blocks(np.add, chunked, da.from_array(raster, chunks=chunks), dtype=int)
    for mode in ("wrap", "nearest"):
        result = lazy.correlate(chunked.astype(int), KERNEL, "f8", mode)
        assert result.chunks == ((20, 20), (30, 29, 1))
        read = set().union(*(t.dependencies for t in result.dask.layers[result.name].values()))
        chunks_read = {key[1:] for key in read if len(key) == 3 and "tileconv" not in key[0]}
        assert chunks_read == set(product({1, 4}, {0, 2, 3}))
        expected = ndimage.correlate(raster, KERNEL, "f8", mode)
        np.testing.assert_allclose(result, expected, atol=1e-10)


def test_a_kernel_larger_than_the_raster():
    raster, weights = RNG.integers(0, 99, (13, 9)), RNG.integers(0, 9, (40, 21))
    for boundary in ("fill", "wrap", "symm"):
        result = lazy.convolve2d(da.from_array(raster, chunks=(4, 3)), weights, "same", boundary)
        assert set(kinds(result)) <= {"blocks", "work", "rows", "columns"}
        expected = signal.convolve2d(raster, weights, "same", boundary)
        np.testing.assert_array_equal(result, expected)


# Sizes, at the scale that is promised. What is compared is counted, nothing is timed.

BLOCKS = 128 * 128


def test_a_graph_over_a_dask_array_stays_small():
    raster = da.zeros((8192, 8192), chunks=64, dtype="f4")
    result = lazy.convolve2d(raster, RNG.normal(size=(33, 34)).astype("f4"), "same")
    assert kinds(result).total() <= 3 * BLOCKS + 1
    layer = dict(result.dask.layers[result.name])
    work = layer.pop(f"{result.name}-work")
    sizes = [len(pickle.dumps(task)) for task in layer.values()]
    assert max(sizes) < 800
    assert np.mean(sizes) < 500
    # dask warns of graphs above 10 MB.
    assert len(pickle.dumps([layer, work])) < 10_000_000
    # Nine chunks; edges of six of them, and of the three rows in the middle two lengthened.
    (one,) = dask.optimize(result.blocks[60, 61])
    assert len(one.dask) <= 9 + 6 + 2 + 3


def test_a_graph_over_a_file_stays_small(tmp_path, monkeypatch):
    monkeypatch.setattr("tileconv.lazy.inputs.BLOCK_BYTES", 64 * 64 * 4)
    zarr.create_array(tmp_path / "in.zarr", shape=(8192, 8192), chunks=(64, 64), dtype="f4")
    result = lazy.convolve2d(tmp_path / "in.zarr", RNG.normal(size=(255, 254)), "same")
    assert kinds(result) == {"blocks": BLOCKS, "work": 1, "source": 1}
    tasks = [task for key, task in result.dask.items() if key[0] == result.name]
    assert max(len(pickle.dumps(task)) for task in tasks) < 400
    (one,) = dask.optimize(result.blocks[60, 61])
    # Besides the block: the work, the file, and dask's own name for the block.
    assert len(one.dask) == 4


def test_a_part_of_a_result_computes_what_it_reads():
    read = []

    def noted(block, block_info=None):
        read.append(tuple(block_info[0]["chunk-location"]))
        return block

    raster = da.map_blocks(noted, da.ones((80, 90), chunks=10), meta=np.empty((0, 0)))
    for mode, across in (("reflect", {3, 4}), ("constant", {3, 4})):
        read.clear()
        result = lazy.correlate(raster, KERNEL, mode=mode)[30:34, 42:49]
        result.compute(scheduler="synchronous")
        assert set(read) == set(product({2, 3, 4}, across | {5}))


def test_keys_are_the_same_for_the_same_arguments():
    first, second = (lazy.convolve2d(da.ones((60, 60), chunks=20), KERNEL) for _ in range(2))
    assert set(first.dask) == set(second.dask)
    other = lazy.convolve2d(da.ones((60, 60), chunks=20), KERNEL + 1)
    assert not set(first.dask.layers[first.name]) & set(other.dask.layers[other.name])


@pytest.fixture
def slide(tmp_path, monkeypatch):
    """Pixels, and the Zarr they are in, read in 30 blocks."""
    monkeypatch.setattr("tileconv.lazy.inputs.BLOCK_BYTES", 100 * 100 * 4)
    pixels = RNG.normal(size=(600, 500)).astype("f4")
    zarr.create_array(tmp_path / "in.zarr", data=pixels, chunks=(50, 100))
    return pixels, tmp_path / "in.zarr"


def test_graphs_of_a_process_share_an_open_file(slide, monkeypatch):
    pixels, path = slide
    graphs = [pickle.dumps(lazy.convolve(path, k)) for k in (KERNEL, KERNEL + 1)]
    reopened, times = blocks.OpenFile.reopened, []
    monkeypatch.setattr(blocks.OpenFile, "reopened", lambda f: times.append(f) or reopened(f))
    first, second = (pickle.loads(graph) for graph in graphs)
    assert times == []
    first.compute()
    np.testing.assert_allclose(second, ndimage.convolve(pixels, KERNEL + 1), atol=1e-4)
    assert len(times) == 1
    source = times[0].source
    assert source.cache.loads == 60
    del first, second
    times.clear()
    # Nothing refers to the file any more.
    with pytest.raises(ValueError, match="closed"):
        source.read(0, Region((0, 0), (1, 1)), np.empty((1, 1, 1), "f4"))


# Under a cluster of two processes.


@pytest.fixture(scope="module")
def client():
    from distributed import Client, LocalCluster

    options = {"n_workers": 2, "threads_per_worker": 1, "processes": True}
    with (
        LocalCluster(**options, host="127.0.0.1", dashboard_address="127.0.0.1:0") as cluster,
        Client(cluster) as client,
    ):
        yield client


def test_a_file_is_opened_once_a_process(client, slide, monkeypatch):
    def count(dask_worker):
        """Count from now on how often this worker opens a file."""
        from tileconv.lazy.blocks import OpenFile

        reopened, dask_worker.opened = OpenFile.reopened, 0

        def counted(file):
            dask_worker.opened += 1
            return reopened(file)

        OpenFile.reopened = counted

    def counted(dask_worker):
        return dask_worker.opened

    here = []
    monkeypatch.setattr(blocks.OpenFile, "reopened", here.append)
    client.run(count)
    pixels, path = slide
    first, second = lazy.convolve(path, KERNEL), lazy.correlate(path, KERNEL, mode="wrap")
    assert first.npartitions >= 30
    got = dask.compute(first, second)
    # Neither the scheduler, which lives in this process, nor the client opened it.
    assert here == []
    opened = client.run(counted).values()
    # By each array once, or by both together if they were worked on at the same time.
    assert 1 <= max(opened) <= 2
    np.testing.assert_allclose(got[0], ndimage.convolve(pixels, KERNEL), atol=1e-4)
    np.testing.assert_allclose(got[1], ndimage.correlate(pixels, KERNEL, mode="wrap"), atol=1e-4)


def test_a_relative_path_means_the_same_to_workers(client, slide, monkeypatch):
    pixels, path = slide
    monkeypatch.chdir(path.parent)
    got = lazy.correlate(path.name, KERNEL).compute()
    np.testing.assert_allclose(got, ndimage.correlate(pixels, KERNEL), atol=1e-4)


def received(client):
    """Every (key, bytes) that a worker was sent by another so far."""

    def log(dask_worker):
        return [
            pair for entry in dask_worker.transfer_incoming_log for pair in entry["keys"].items()
        ]

    return [pair for pairs in client.run(log).values() for pair in pairs]


def test_strips_travel_between_processes(client):
    raster = RNG.normal(size=(1000, 1000))
    chunked = client.persist(da.from_array(raster, chunks=100) + 0)
    result = lazy.convolve(chunked, KERNEL, mode="wrap")
    got = result.compute()
    np.testing.assert_allclose(got, ndimage.convolve(raster, KERNEL, mode="wrap"), atol=1e-9)
    # A chunk may be sent too, where the scheduler moves the task of its block.
    strips = {f"{result.name}-rows", f"{result.name}-columns"}
    sent = [(key, size) for key, size in received(client) if key[0] in strips]
    assert 0 < sum(size for _, size in sent) < raster.nbytes / 8
    assert max(size for _, size in sent) < 4 * 104 * 8


def test_a_large_kernel_is_sent_to_a_process_once(client, slide):
    pixels, path = slide
    weights = RNG.normal(size=(255, 254))
    result = lazy.convolve2d(path, weights, "same")
    expected = signal.oaconvolve(pixels.astype("f8"), weights, "same")
    np.testing.assert_allclose(result.compute(), expected, atol=1e-9)
    keys = [key for key, _ in received(client)]
    assert keys.count(f"{result.name}-work") <= 1
    assert keys.count(f"{result.name}-source") <= 1
