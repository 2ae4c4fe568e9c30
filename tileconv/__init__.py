"""tileconv convolves rasters that do not fit in memory, exactly as scipy would."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tileconv.errors import TileconvError
    from tileconv.jobs.config import Job
    from tileconv.jobs.run import plan, run
    from tileconv.lazy import convolve, convolve2d, correlate, correlate2d, open, save
    from tileconv.verification.verify import verify

__version__ = "0.2.0"

__all__ = [
    "Job",
    "TileconvError",
    "__version__",
    "convolve",
    "convolve2d",
    "correlate",
    "correlate2d",
    "open",
    "plan",
    "run",
    "save",
    "verify",
]

# Where each public name lives. Names are loaded when they are first asked for, so that
# `import tileconv` costs nothing and a job on threads never imports dask.
_HOMES = {
    "Job": "tileconv.jobs.config",
    "TileconvError": "tileconv.errors",
    "convolve": "tileconv.lazy",
    "convolve2d": "tileconv.lazy",
    "correlate": "tileconv.lazy",
    "correlate2d": "tileconv.lazy",
    "open": "tileconv.lazy",
    "plan": "tileconv.jobs.run",
    "run": "tileconv.jobs.run",
    "save": "tileconv.lazy",
    "verify": "tileconv.verification.verify",
}


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module 'tileconv' has no attribute {name!r}")
    value = getattr(import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
