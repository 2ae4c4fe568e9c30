"""What a run did: counted as tiles come in, told at the end."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

from tileconv.jobs.batches import BatchResult, process_name
from tileconv.jobs.journal import Frame
from tileconv.jobs.limits import peak_resident_bytes
from tileconv.jobs.plan import Plan
from tileconv.stores.absent import AbsentChunks, BadChunks


@dataclass(slots=True)
class Report:
    """Totals of a run; filled while it runs.

    Parameters
    ----------
    plan : Plan
        What was to be done.
    output : str
        Where the result is.
    chunks : int
        Of the input.
    """

    plan: Plan
    output: str
    chunks: int
    tiles: int = 0
    pixels: int = 0
    resumed_tiles: int = 0
    resumed_pixels: int = 0
    stored_bytes: int = 0
    decoded_bytes: int = 0
    clipped: int = 0
    nans: int = 0
    absent: AbsentChunks = field(init=False)
    bad: BadChunks = field(init=False)
    read_s: float = 0.0
    compute_s: float = 0.0
    write_s: float = 0.0
    elapsed_s: float = 0.0
    peaks: dict[str, int] = field(default_factory=dict)
    _started: float = field(default_factory=time.perf_counter)

    def __post_init__(self) -> None:
        self.absent = AbsentChunks(self.chunks)
        self.bad = BadChunks(self.chunks)

    def resume(self, frame: Frame) -> None:
        """Count tiles that another run has done."""
        totals = frame.totals
        self.tiles += len(frame.tiles)
        self.resumed_tiles += len(frame.tiles)
        self.pixels += totals.pixels
        self.resumed_pixels += totals.pixels
        self.stored_bytes += frame.receipt.stored_bytes
        self.clipped += totals.clipped
        self.nans += totals.nans
        self.absent.merge(totals.absences)
        self.bad.merge(totals.damage)

    def withdraw(self, frame: Frame) -> None:
        """Count tiles no longer that another run has done, because they must be done again."""
        totals = frame.totals
        self.tiles -= len(frame.tiles)
        self.resumed_tiles -= len(frame.tiles)
        self.pixels -= totals.pixels
        self.resumed_pixels -= totals.pixels
        self.stored_bytes -= frame.receipt.stored_bytes
        self.clipped -= totals.clipped
        self.nans -= totals.nans

    def add(self, result: BatchResult) -> None:
        """Count the tiles of a batch."""
        for tile in result.tiles:
            self.tiles += 1
            self.pixels += tile.pixels
            self.stored_bytes += tile.receipt.stored_bytes
            self.decoded_bytes += tile.decoded_bytes
            self.clipped += tile.clipped
            self.nans += tile.nans
            self.absent.merge(tile.absent)
            self.bad.merge(tile.bad)
            self.read_s += tile.read_s
            self.compute_s += tile.compute_s
            self.write_s += tile.write_s
        known = self.peaks.get(result.process, 0)
        self.peaks[result.process] = max(known, result.peak_memory_bytes)
        self.elapsed_s = time.perf_counter() - self._started

    def close(self) -> None:
        """Take the time, and the peak memory of this process if it has worked on tiles."""
        self.elapsed_s = time.perf_counter() - self._started
        if not self.peaks or process_name() in self.peaks:
            self.peaks[process_name()] = peak_resident_bytes()

    @property
    def peak_memory_bytes(self) -> int:
        """Most memory that any process that worked on tiles has had."""
        return max(self.peaks.values(), default=0)

    @property
    def busy(self) -> float:
        """Part of the time that the threads of all these processes were working on tiles."""
        lanes = self.plan.workers * max(self.plan.processes, len(self.peaks))
        worked = self.read_s + self.compute_s + self.write_s
        return worked / (lanes * self.elapsed_s) if self.elapsed_s else 0.0

    @property
    def pixels_per_s(self) -> float:
        """Output pixels a second, whatever their samples; of this run alone."""
        done = self.pixels - self.resumed_pixels
        return done / self.elapsed_s if self.elapsed_s else 0.0

    @property
    def read_amplification(self) -> float | None:
        """Bytes decoded over bytes in the raster; None where they are not known.

        That is for a source without chunks, and for what another run has begun.
        """
        raster = self.plan.work.source
        known = raster.chunk and raster.nbytes and not self.resumed_tiles
        return self.decoded_bytes / raster.nbytes if known else None

    def as_dict(self) -> dict[str, object]:
        """For machines: plain numbers, strings and lists."""
        raster = self.plan.work.layout.raster
        return {
            "output": self.output,
            "shape": list(raster.shape),
            "dtype": str(raster.dtype),
            "method": self.plan.work.choice.method,
            "accumulator": str(self.plan.work.engine.accumulator),
            "warnings": list(self.plan.work.warnings),
            "tiles": self.tiles,
            "resumed_tiles": self.resumed_tiles,
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
            "absent_chunks": self.absent.count,
            "absent_first": self.absent.first,
            "bad_chunks": self.bad.count,
            "bad_names": self.bad.first,
            "memory": {
                "peak_bytes": self.peak_memory_bytes,
                "planned_bytes": self.plan.memory.peak_bytes,
                "cap_bytes": self.plan.cap_bytes,
            },
            "workers": self.plan.workers,
            "processes_used": len(self.peaks),
        }
