"""Rounds of one job: tileconv and its peers in turn, each a whole process."""

from __future__ import annotations

import os
import statistics
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from speed_parts.jobs import EXTRAS, Job, Peer
from speed_parts.processes import RunError, Usage, answer, installed, remove, timed

PEERS = Path(__file__).resolve().parent.parent / "peers"
PARTS = Path(__file__).resolve().parent
WARM_SIDE = 1024
ROUNDING = 1.0
"""What integers may differ by where both sides round: a tie, and a sum in another order."""
FLOAT_BOUND = 1e-4
"""The same for floats, relative to the range of the values."""


@dataclass(slots=True)
class Outcome:
    """What became of one contender."""

    peer: Peer
    runs: list[Usage] = field(default_factory=list)
    difference: dict[str, Any] | None = None
    failed: str = ""


class Bench:
    """The files, the threads and the rounds of a benchmark.

    Parameters
    ----------
    folder : Path
        Where inputs and outputs are; inputs that are there already are taken.
    side, rounds, threads : int
    groups : tuple of str
        Peers that take part.
    """

    def __init__(
        self, folder: Path, side: int, rounds: int, threads: int, groups: tuple[str, ...]
    ) -> None:
        self.folder, self.side, self.rounds, self.threads = folder, side, rounds, threads
        self.groups = groups
        self.skipped: dict[str, str] = {}
        self.warm: set[tuple[str, ...]] = set()
        if not (folder / "box-101.npy").exists():
            timed([sys.executable, str(PARTS / "write_kernels.py"), str(folder)], self.log)

    @property
    def log(self) -> Path:
        """What the last process said on stderr."""
        return self.folder / "stderr.txt"

    def input(self, kind: str, side: int) -> Path:
        """A made-up slide, made if it is not there."""
        path = self.folder / f"{kind}-{side}{'.zarr' if kind == 'zstd' else '.tif'}"
        if not path.exists():
            packing = ["--compression", "none" if kind == "raw" else kind]
            if kind != "raw":
                packing += ["--compression-level", "6" if kind == "deflate" else "1"]
            command = [sys.executable, "-m", "tileconv", "sample", str(path), "--quiet"]
            command += ["--shape", f"{side}x{side}", "--workers", str(self.threads), *packing]
            timed(command, self.log)
        return path

    def ours(self, job: Job, side: int, output: Path, compression: str | None = None) -> list[str]:
        """The command line of tileconv."""
        _, dtype, packing = job.output
        kernel = job.kernel.format(folder=self.folder)
        return [
            *(sys.executable, "-m", "tileconv", "convolve"),
            *(str(self.input(job.input, side)), str(output), "--kernel", kernel),
            *("--boundary", "nearest", "--dtype", dtype),
            *("--compression", compression or packing),
            *("--memory", "512MiB", "--workers", str(self.threads), "--quiet"),
        ]

    def theirs(self, job: Job, peer: Peer, side: int, output: Path) -> list[str]:
        """The command line of a peer."""
        script, *arguments = peer.command
        values = {
            "folder": self.folder,
            "threads": self.threads,
            "result": self.folder / f"result-{side}.tif",
        }
        given = [argument.format(**values) for argument in arguments]
        source = self.input(job.input, side)
        return [sys.executable, str(PEERS / script), str(source), str(output), *given]

    def run(self, command: list[str], output: Path) -> Usage:
        """One process, on a machine that has nothing left to write."""
        remove(output)
        # What a run of tileconv that failed has left; the next would go on from it.
        remove(output.with_name(f".{output.name}.tileconv"))
        os.sync()
        return timed(command, self.log, {"VIPS_CONCURRENCY": str(self.threads)})

    def output(self, name: str, suffix: str) -> Path:
        """Where a contender writes."""
        return self.folder / f"output-{name}{suffix}"

    def missing(self, peer: Peer) -> str:
        """Why a peer takes no part; empty if it does."""
        for package in peer.packages:
            if not installed(package):
                return f"{EXTRAS[package]} is not installed"
        return ""

    def peers_of(self, job: Job) -> list[Peer]:
        """The peers that take part in a job; those that cannot are noted."""
        chosen = [peer for peer in job.peers if peer.group in self.groups]
        for peer in chosen:
            if reason := self.missing(peer):
                self.skipped[peer.name] = reason
        return [peer for peer in chosen if peer.name not in self.skipped]

    def prepare(self, job: Job, peers: list[Peer], side: int) -> None:
        """What a floor copies from, which is not its own work."""
        if any("{result}" in peer.command for peer in peers):
            output = self.folder / f"result-{side}.tif"
            self.run(self.ours(job, side, output, "none"), output)

    def warm_up(self, job: Job, outcomes: list[Outcome]) -> None:
        """Run everything once on something small, so that all is compiled and in the cache."""
        side = min(WARM_SIDE, self.side)
        self.prepare(job, [outcome.peer for outcome in outcomes], side)
        mine = self.output("ours", job.output[0])
        self.run(self.ours(job, side, mine), mine)
        for outcome in outcomes:
            peer, output = outcome.peer, self.output("peer", outcome.peer.suffix)
            if peer.command[:2] in self.warm:
                continue
            self.warm.add(peer.command[:2])
            try:
                self.run(self.theirs(job, peer, side, output), output)
            except RunError as error:
                outcome.failed = str(error)
            remove(output)
        remove(self.folder / f"result-{side}.tif")

    def compare(self, outcome: Outcome, mine: Path, output: Path) -> None:
        """Whether a peer did the same work."""
        command = [sys.executable, str(PARTS / "compare.py"), str(mine), str(output)]
        found = outcome.difference = answer(command)
        bound = ROUNDING if found["dtype"] == "uint8" else FLOAT_BOUND * found["range"]
        if outcome.peer.comparison == "exact" and found["largest"] > bound:
            y, x = found["at"]
            outcome.failed = f"differs from ours by {found['largest']:.6g} at {y}, {x}"

    def turn(self, job: Job, outcome: Outcome, side: int, mine: Path) -> None:
        """One round of one peer; its first output is compared with ours."""
        output = self.output("peer", outcome.peer.suffix)
        try:
            used = self.run(self.theirs(job, outcome.peer, side, output), output)
            if outcome.peer.comparison != "none" and outcome.difference is None:
                self.compare(outcome, mine, output)
            if not outcome.failed:
                outcome.runs.append(used)
        except RunError as error:
            outcome.failed = str(error)
        remove(output)

    def job(self, job: Job) -> dict[str, Any]:
        """All rounds of a job.

        Raises
        ------
        RunError
            If tileconv fails.
        """
        side = min(job.side or self.side, self.side)
        outcomes = [Outcome(peer) for peer in self.peers_of(job)]
        ours: list[Usage] = []
        mine = self.output("ours", job.output[0])
        try:
            self.warm_up(job, outcomes)
            self.prepare(job, [outcome.peer for outcome in outcomes], side)
            for turn in range(self.rounds):
                playing = [o for o in outcomes if turn < o.peer.rounds and not o.failed]
                if turn and not playing:
                    break
                ours.append(self.run(self.ours(job, side, mine), mine))
                for outcome in playing:
                    self.turn(job, outcome, side, mine)
        finally:
            remove(mine)
            remove(self.folder / f"result-{side}.tif")
        return {
            "name": job.name,
            "title": f"{job.title}, {side} x {side}" if job.side else job.title,
            "side": side,
            "ours": [usage.as_dict() for usage in ours],
            "peers": [as_found(outcome, ours) for outcome in outcomes],
        }


def as_found(outcome: Outcome, ours: list[Usage]) -> dict[str, Any]:
    """A peer's rounds and ratios, for JSON; none if it failed."""
    peer = outcome.peer
    found: dict[str, Any] = {"name": peer.name, "group": peer.group, "target": peer.target}
    found |= {"comparison": peer.comparison, "difference": outcome.difference}
    if outcome.failed or not outcome.runs:
        return found | {"failed": outcome.failed or "no rounds", "runs": [], "ratio": None}
    ratios = [a.wall_s / b.wall_s for a, b in zip(ours, outcome.runs, strict=False)]
    ratio = {"median": statistics.median(ratios), "min": min(ratios), "max": max(ratios)}
    met = None if peer.target is None else ratio["median"] <= peer.target
    runs = [usage.as_dict() for usage in outcome.runs]
    return found | {"failed": "", "runs": runs, "ratio": ratio, "met": met}
