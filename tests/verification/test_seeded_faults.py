"""A fault in any part of a run is seen, also while that part stays faulty during the check."""

import numpy as np
import pytest
import tifffile

import tileconv
from tileconv.core import boundary
from tileconv.core.boundary import source_indices
from tileconv.core.engines.accuracy import Accuracy
from tileconv.core.engines.direct import DirectEngine
from tileconv.core.kernels import Kernel
from tileconv.core.operation import Mode, Operation
from tileconv.core.pixels import Cast
from tileconv.errors import VerificationError
from tileconv.stores.tiff.segments import SegmentReader
from tileconv.stores.zarr import writer

RNG = np.random.default_rng(0)
PIXELS = RNG.integers(0, 255, (90, 120), np.uint8)
WEIGHTS = RNG.normal(size=(4, 3)).round(2)


@pytest.fixture(autouse=True)
def fresh_plans():
    """Plans of axes are remembered."""
    boundary.plan_axis.cache_clear()
    yield
    boundary.plan_axis.cache_clear()


def reading(monkeypatch):
    tile = SegmentReader.tile

    def shifted(self, page, index):
        pixels = tile(self, page, index)
        return np.roll(pixels, 1, axis=2) if index == 1 else pixels

    monkeypatch.setattr(SegmentReader, "tile", shifted)


def boundary_rule(monkeypatch):
    def wrong(lo, hi, length, rule):
        mirrored = boundary.Boundary.MIRROR if rule is boundary.Boundary.SYMM else rule
        return source_indices(lo, hi, length, mirrored)

    monkeypatch.setattr(boundary, "source_indices", wrong)


def fill_value(monkeypatch):
    def without(read, window, shape, rule, fill, out):
        boundary.read_extended(read, window, shape, rule, 0 * fill, out)

    monkeypatch.setattr("tileconv.jobs.tile_task.read_extended", without)


def flip(monkeypatch):
    monkeypatch.setattr("tileconv.core.kernels.flip", lambda weights: weights)


def anchor(monkeypatch):
    def offset(self):
        (y, x), moved = self.kernel.anchor, self.mode is Mode.SAME
        return (-y, 1 - x) if moved else (0, 0)

    monkeypatch.setattr(Operation, "offset", property(offset))


def accumulation(monkeypatch):
    apply = DirectEngine.apply

    def without_a_tap(self, block, out, cast):
        weights = self.kernel.weights.copy()
        weights[0, 0] = 0
        fewer = DirectEngine(Kernel(weights, self.kernel.anchor), self.accumulator)
        return apply(fewer, block, out, cast)

    monkeypatch.setattr(DirectEngine, "apply", without_a_tap)


def cast(monkeypatch):
    store = Cast.store

    # Half up instead of half to even is within the bound of a tie.
    def cut_off(self, values, out, **known):
        return store(self, np.trunc(values), out, **known)

    monkeypatch.setattr(Cast, "store", cut_off)


def fft_threshold(monkeypatch):
    monkeypatch.setattr(Accuracy, "limit", 1e30)


def writing(monkeypatch):
    write = writer.ZarrWriter.write

    def altered(self, plane, region, pixels):
        if region.start == (0, 0):
            pixels = pixels.copy()
            pixels.reshape(-1).view(np.uint8)[77] ^= 64
        return write(self, plane, region, pixels)

    monkeypatch.setattr(writer.ZarrWriter, "write", altered)


HOLES = np.where(RNG.random((300, 310)) < 0.002, np.float32(1e20), 15).astype(np.float32)
FAULTS = {
    reading: {},
    boundary_rule: {},
    fill_value: {"convolution": {"boundary": "fill", "fill_value": 7}},
    flip: {},
    anchor: {},
    accumulation: {"convolution": {"method": "direct"}},
    cast: {"weights": [[0.5, 0.25, 0.25]], "output": {"dtype": "uint8"}},
    fft_threshold: {
        "pixels": HOLES,
        "weights": RNG.random((9, 9)) / 40,
        "convolution": {"method": "fft"},
    },
    writing: {},
}


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__)
@pytest.mark.parametrize("everything", [True, False], ids=["all", "sampled"])
def test_each_fault_is_caught(tmp_path, job_of, monkeypatch, fault, everything):
    given = dict(FAULTS[fault])
    pixels = given.pop("pixels", PIXELS)
    job = job_of(pixels, given.pop("weights", WEIGHTS), **given)
    tifffile.imwrite(tmp_path / "in.tif", pixels, tile=(32, 32))
    job["input"]["path"] = str(tmp_path / "in.tif")
    tileconv.run(job)
    right = tileconv.verify(job, everything=everything)
    assert right.passed
    assert (right.input_reader, right.output_reader) == ("tifffile", "zarr-python")
    with monkeypatch.context() as faulty:
        fault(faulty)
        boundary.plan_axis.cache_clear()
        tileconv.run(job)
        with pytest.raises(VerificationError, match="times the bound") as error:
            tileconv.verify(job, everything=everything)
    assert error.value.verification.result.wrong > 0
    # And once the part is right again.
    boundary.plan_axis.cache_clear()
    with pytest.raises(VerificationError, match="times the bound"):
        tileconv.verify(job, everything=everything)
