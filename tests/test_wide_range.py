"""Random jobs and lazy calls on pixels of a wide range, against sums in long double.

``make soak`` runs 20,000 of each; ``python tests/test_wide_range.py FIRST COUNT`` runs some.
"""

import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest

sys.path.append(str(Path(__file__).parent / "oracles"))

from wide_range import kernels, pixels, wrong

import tileconv
from tileconv.errors import MethodError

PADDING = {"wrap": "wrap", "symm": "symmetric", "nearest": "edge", "mirror": "reflect"}
METHODS = ["auto", "auto", "direct", "separable", "fft"]
FILLS = [0.0, 0.1, -9999.0, 1e20, 3e-42]


def extended(raster, shape, mode, boundary, fill):
    """The pixels that the outputs of a mode read, in long double; scipy.signal's centres."""
    raster = raster.astype(np.result_type(raster, np.longdouble))
    if mode == "valid":
        return raster
    widths = [(k - 1, k - 1) if mode == "full" else (k // 2, (k - 1) // 2) for k in shape]
    if boundary == "fill":
        return np.pad(raster, widths, constant_values=fill)
    return np.pad(raster, widths, mode=PADDING[boundary])


def problem(seed):
    """A raster, weights and how they are convolved."""
    rng = np.random.default_rng([12, seed])
    weights = kernels(rng, 20)
    dtype = rng.choice(["float32", "float32", "float64", "complex64", "complex128"])
    most = 200 if rng.random() < 0.1 else 50
    mode = str(rng.choice(["same", "same", "full", "valid"]))
    least = weights.shape if mode == "valid" else (1, 1)
    raster = pixels(rng, [int(n + rng.integers(0, most)) for n in least], dtype)
    boundary, fill = str(rng.choice(["fill", *PADDING])), float(rng.choice(FILLS))
    return rng, raster, weights, mode, boundary, fill


def job_is_right(seed, folder):
    """Whether one random job's output is within the bound; None where its method refuses."""
    rng, raster, weights, mode, boundary, fill = problem(seed)
    name = str(rng.choice(["in.npy", "in.zarr", "in.tif"]))
    if name == "in.tif" and raster.dtype == np.complex128:
        name = "in.npy"
    _write(folder / name, raster, rng)
    np.save(folder / "kernel.npy", weights)
    dtype = rng.choice([None, "float32", "float64", "int16", "uint8", "int32"])
    if raster.dtype.kind == "c":
        dtype = None
    output = folder / str(rng.choice(["out.zarr", "out.tif"]))
    job = {
        "input": {"path": str(folder / name)},
        "kernel": {"file": str(folder / "kernel.npy")},
        "convolution": {
            "mode": mode,
            "boundary": boundary,
            "fill_value": fill,
            "method": str(rng.choice(METHODS)),
        },
        "output": {
            "path": str(output),
            "dtype": dtype and str(dtype),
            "tile": 32,
            "overwrite": True,
            "nan_fill": 0,
        },
        "run": {"workers": 1},
    }
    if rng.random() < 0.2:
        job["convolution"]["accumulate"] = "float64"
    try:
        work = tileconv.plan(job).work
    except MethodError:
        return None
    tileconv.run(job)
    found = tileconv.open(output).compute(scheduler="synchronous")
    fill = np.asarray(fill).astype(work.engine.accumulator)[()]
    block = extended(raster, weights.shape, mode, boundary, fill)
    method = str(work.choice.method)
    return not wrong(found, block, weights[::-1, ::-1], work.engine.accumulator, method).any()


def _write(path, raster, rng):
    if path.suffix == ".npy":
        np.save(path, raster)
    elif path.suffix == ".zarr":
        import zarr

        zarr.create_array(
            path,
            data=raster,
            chunks=(int(rng.integers(8, 90)),) * 2,
            overwrite=True,
            config={"write_empty_chunks": True},
        )
    else:
        import tifffile

        tifffile.imwrite(path, raster, tile=(16 * int(rng.integers(1, 5)),) * 2)


def lazy_call_is_right(seed):
    """Whether one random lazy call is within the bound; None where its method refuses."""
    import dask.array as da

    rng, raster, weights, mode, boundary, fill = problem(seed)
    chunks = tuple(int(n) for n in rng.integers(5, 90, 2))
    array = da.from_array(raster, chunks=chunks)
    method = str(rng.choice(METHODS))
    double = {"accumulate": "float64"} if rng.random() < 0.2 else {}
    weights = weights.astype(raster.dtype)
    if not np.isfinite(weights).all():
        return None
    try:
        lazy = tileconv.convolve2d(array, weights, mode, boundary, fill, method=method, **double)
    except (MethodError, ValueError) as error:
        if isinstance(error, MethodError) or method in str(error):
            return None
        raise
    found = lazy.compute(scheduler="synchronous")
    sums = np.result_type(found.dtype, np.float64 if double else found.dtype)
    block = extended(raster, weights.shape, mode, boundary, np.asarray(fill).astype(sums)[()])
    method = "fft" if method == "auto" else method
    return not wrong(found, block, weights[::-1, ::-1], sums, method).any()


@pytest.mark.parametrize("seed", range(0, 60, 6))
def test_jobs(seed, tmp_path):
    found = [job_is_right(n, tmp_path) for n in range(seed, seed + 6)]
    assert False not in found


@pytest.mark.parametrize("seed", range(0, 120, 12))
def test_lazy_calls(seed):
    assert False not in [lazy_call_is_right(n) for n in range(seed, seed + 12)]


@pytest.mark.soak
@pytest.mark.parametrize("seed", range(1000, 21000, 200))
def test_many(seed, tmp_path):
    wrong_jobs = [n for n in range(seed, seed + 200) if job_is_right(n, tmp_path) is False]
    wrong_calls = [n for n in range(seed, seed + 200) if lazy_call_is_right(n) is False]
    assert (wrong_jobs, wrong_calls) == ([], [])


def main(first, count):
    """Run some of them, and say which are wrong."""
    with tempfile.TemporaryDirectory() as folder:
        jobs = [job_is_right(n, Path(folder)) for n in range(first, first + count)]
    calls = [lazy_call_is_right(n) for n in range(first, first + count)]
    for name, found in (("jobs", jobs), ("lazy calls", calls)):
        bad = [first + n for n, right in enumerate(found) if right is False]
        print(f"{count - found.count(None)} {name}, {len(bad)} wrong: {bad}")


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
