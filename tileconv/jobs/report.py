"""What a run did: counted as tiles come in, told at the end."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

from tileconv.jobs.limits import peak_resident_bytes
from tileconv.jobs.plan import Plan
from tileconv.jobs.tile_task import TileResult


@dataclass(slots=True)
class Report:
    """Totals of a run; filled while it runs.

    Parameters
    ----------
    plan : Plan
        What was to be done.
    output : str
        Where the result is.
    """

    plan: Plan
    output: str
    tiles: int = 0
    pixels: int = 0
    stored_bytes: int = 0
    decoded_bytes: int = 0
    clipped: int = 0
    nans: int = 0
    absent_chunks: int = 0
    absent_first: list[str] = field(default_factory=list)
    read_s: float = 0.0
    compute_s: float = 0.0
    write_s: float = 0.0
    elapsed_s: float = 0.0
    peak_memory_bytes: int = 0
    _started: float = field(default_factory=time.perf_counter)

    def add(self, result: TileResult) -> None:
        """Count one finished tile."""
        self.tiles += 1
        self.pixels += result.pixels
        self.stored_bytes += result.stored_bytes
        self.clipped += result.clipped
        self.nans += result.nans
        self.read_s += result.read_s
        self.compute_s += result.compute_s
        self.write_s += result.write_s
        self.elapsed_s = time.perf_counter() - self._started

    def close(self) -> None:
        """Take the time and the peak memory of this process."""
        self.elapsed_s = time.perf_counter() - self._started
        self.peak_memory_bytes = peak_resident_bytes()

    @property
    def pixels_per_s(self) -> float:
        """Output pixels a second, whatever their samples."""
        return self.pixels / self.elapsed_s if self.elapsed_s else 0.0

    @property
    def read_amplification(self) -> float | None:
        """Bytes decoded over bytes in the raster; None for a source without chunks."""
        raster = self.plan.work.source
        return self.decoded_bytes / raster.nbytes if raster.chunk and raster.nbytes else None

    def as_dict(self) -> dict[str, object]:
        """For machines: plain numbers, strings and lists."""
        raster = self.plan.work.layout.raster
        return {
            "output": self.output,
            "shape": list(raster.shape),
            "dtype": str(raster.dtype),
            "method": self.plan.work.choice.method,
            "tiles": self.tiles,
            "pixels": self.pixels,
            "elapsed_s": round(self.elapsed_s, 3),
            "pixels_per_s": round(self.pixels_per_s),
            "read_s": round(self.read_s, 3),
            "compute_s": round(self.compute_s, 3),
            "write_s": round(self.write_s, 3),
            "stored_bytes": self.stored_bytes,
            "read_amplification": self.read_amplification,
            "clipped": self.clipped,
            "nan_filled": self.nans,
            "absent_chunks": self.absent_chunks,
            "absent_first": self.absent_first,
            "memory": {
                "peak_bytes": self.peak_memory_bytes,
                "planned_bytes": self.plan.memory.peak_bytes,
                "cap_bytes": self.plan.cap_bytes,
            },
            "workers": self.plan.workers,
        }
