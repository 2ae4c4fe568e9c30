"""A run and its check enter no function of engines, boundary rules or chunk caches in common."""

import sys
import threading
from pathlib import Path

import numpy as np
import pytest
import tifffile
import zarr

import tileconv

PACKAGE = Path(tileconv.__file__).resolve().parent
APART = (
    "core/engines/",
    "core/loops/",
    "core/boundary.py",
    "core/overlap_save.py",
    "core/buffers.py",
    "stores/chunk_cache.py",
    "jobs/tile_task.py",
    "jobs/plan.py",
)
"""Where nothing may be shared."""

WORDS = {"boundary_named", "_rule", "plan_cells", "fast_length"}
"""What only reads a word, or says what a method would cost."""

READING = {"TiffSource.read", "ZarrSource.read", "NpySource.read"}
"""How a run reads pixels."""

RNG = np.random.default_rng(0)
PIXELS = RNG.integers(0, 255, (40, 50), np.uint8)


def entered(call):
    """(file, function) of everything of tileconv that a call enters, in any thread."""
    found = set()

    def look(frame, event, _):
        if event == "call":
            path = Path(frame.f_code.co_filename)
            if PACKAGE in path.parents:
                found.add((str(path.relative_to(PACKAGE)), frame.f_code.co_qualname))

    threading.setprofile(look)
    sys.setprofile(look)
    try:
        call()
    finally:
        sys.setprofile(None)
        threading.setprofile(None)
    return found


def in_common(ran, checked):
    """What both enter of what should be apart."""
    return {
        (file, name)
        for file, name in ran & checked
        if file.startswith(APART) and name.split(".")[0] not in WORDS
    }


@pytest.mark.parametrize("method", ["direct", "separable", "fft", "reference"])
@pytest.mark.parametrize("suffix", ["tif", "zarr", "npy"])
def test_nothing_is_shared(tmp_path, job_of, method, suffix):
    boundary = "fill" if suffix == "npy" else "symm"
    convolution = {"method": method, "boundary": boundary, "fill_value": 0.5}
    output = "zarr" if suffix == "tif" else "tif"
    weights = np.outer([1.0, 2, 3], [1.0, 5, 6, 7]) / 9
    job = job_of(PIXELS, weights, suffix=f".{output}", convolution=convolution)
    tifffile.imwrite(tmp_path / "in.tif", PIXELS, tile=(32, 32), compression="deflate")
    zarr.create_array(tmp_path / "in.zarr", shape=PIXELS.shape, dtype="u1", chunks=(32, 32))[
        ...
    ] = PIXELS
    job["input"]["path"] = str(tmp_path / f"in.{suffix}")
    tileconv.run(job)  # Importing and compiling would be traced for long.
    tileconv.verify(job)
    ran = entered(lambda: tileconv.run(job, restart=True))
    checked = entered(lambda: tileconv.verify(job, everything=True))
    # The tracing sees both.
    assert ("verification/checking.py", "CheckTask.__call__") in checked
    assert ("core/boundary.py", "read_extended") in ran
    assert any(file.startswith("core/engines/") for file, _ in ran)
    assert READING & {name for _, name in ran}
    assert not READING & {name for _, name in checked}
    assert not in_common(ran, checked)


def test_tileconvs_reader_is_asked_where_another_cannot_and_still_shares_no_cache(tmp_path, job_of):
    job = job_of(PIXELS, np.ones((3, 3)))
    job["input"] = {"sample": "zoneplate", "shape": "40x50"}
    ran = entered(lambda: tileconv.run(job))
    checked = entered(lambda: tileconv.verify(job))
    assert not in_common(ran, checked)
