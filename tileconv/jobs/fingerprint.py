"""What two runs must have in common for one to go on with what the other has done."""

from __future__ import annotations

import hashlib

import numpy as np

from tileconv import __version__
from tileconv.core.processor import this_processor
from tileconv.jobs.journal import VERSION, Settings
from tileconv.jobs.work import Work
from tileconv.stores.source import Source


def settings_of(work: Work, source: Source) -> Settings:
    """Everything an output's pixels and bytes depend on, by names that people know.

    What changes only the speed is left out: memory, workers, cluster.

    Returns
    -------
    mapping of str to str
    """
    kernel, operation, layout = work.operation.kernel, work.operation, work.layout
    weights = np.ascontiguousarray(kernel.weights)
    return {
        VERSION: __version__,
        "input": source.identity,
        "raster": f"{work.source.shape} {work.source.dtype} {','.join(work.source.dims)}",
        "kernel": f"{kernel.shape} at {kernel.anchor}, "
        + _digest(f"{weights.dtype} {kernel.skip_zeros}".encode() + weights.tobytes()),
        "mode": str(operation.mode.value),
        "boundary": f"{operation.boundary.value} {operation.fill_value}",
        "method": f"{work.engine.method} in {work.engine.accumulator}" + _vectors(work),
        "dtype": f"{work.cast.dtype}, {work.cast.rule.value}, NaN {work.cast.nan_fill}, "
        f"overflow {'error' if work.refuse_clipped else 'saturate'}",
        "format": f"{layout.format} {layout.compression} {layout.level}, "
        f"{layout.raster.shape} in {layout.unit} of {layout.raster.chunk}",
        "metadata": _digest(repr(layout.metadata).encode()),
    }


def _vectors(work: Work) -> str:
    """What the last bits of transforms depend on: how long the processor's vectors are."""
    if work.engine.method != "fft":
        return ""
    return f", {this_processor().vector_bytes} bytes at a time"


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:16]
