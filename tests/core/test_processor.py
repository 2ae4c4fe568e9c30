"""Loops are written for the vectors of a processor: those of others give the same results."""

import subprocess
import sys

import pytest

CODE = """
import sys
import numpy as np
from scipy import signal
import tileconv.core.processor as processor

fake = processor.this_processor()._replace(vector_bytes=int(sys.argv[1]), registers=16)
processor.this_processor = lambda: fake

from tileconv.core.engines import build_engine
from tileconv.core.kernels import Kernel
from tileconv.core.pixels import Cast

rng = np.random.default_rng(0)
for code in "fd":
    dtype = np.dtype(code)
    for method in ("direct", "separable", "fft"):
        weights = np.outer(rng.normal(size=6), rng.normal(size=9))
        if method != "separable":
            weights += rng.normal(size=weights.shape)
        block = rng.normal(size=(150, 171, 1)).astype(dtype)
        out = np.empty((145, 163, 1), dtype)
        build_engine(method, Kernel(weights, (0, 0)), dtype).apply(block, out, Cast(dtype))
        expected = signal.correlate2d(block[..., 0].astype("d"), weights, mode="valid")
        bound = 64 * np.finfo(dtype).eps * np.abs(weights).sum() * np.abs(block).max()
        assert np.abs(out[..., 0] - expected).max() <= bound, (code, method)
"""


@pytest.mark.parametrize("vector_bytes", [16, 32])
def test_narrower_vectors(vector_bytes):
    subprocess.run([sys.executable, "-c", CODE, str(vector_bytes)], check=True)
