"""Damages seed files, runs tileconv on each, and judges what came out.

    python mutants.py --count 2000 [--seed 1] [--start 0] [--keep FOLDER]

One process has everything imported and forks a child for each mutant, with a limit on memory and
on time; the child is the command line. Where it gave pixels, another child compares them with
those of `decoders`. The same seed and number always make the same mutant: ``--start 137 --count 1
--keep DIR`` makes number 137 again, and leaves it in DIR. Prints a document of JSON.
"""

from __future__ import annotations

import argparse
import collections
import gc
import json
import logging
import os
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path
from random import Random

os.environ["OPENBLAS_NUM_THREADS"] = "1"  # Threads do not survive a fork.

import decoders
import numcodecs  # noqa: F401 - imported before the fork, for speed
import numpy as np
import tifffile  # noqa: F401
import zarr
from tiff_mutations import mutate_tiff
from zarr_mutations import mutate_zarr

import tileconv.__main__
import tileconv.cli
import tileconv.jobs.describe
import tileconv.jobs.progress
import tileconv.jobs.run
import tileconv.stores.tiff.reader
import tileconv.stores.zarr.reader
import tileconv.stores.zarr.writer

SECONDS = 10
MEMORY = 3 << 29
"""Bytes of data a child may have: its cap of 1 GiB, and the half that only hostile files use."""

REFUSED = {2, 3, 7}
"""Exit codes of a file that was not believed: path or axes, content, more memory than allowed."""


class Outcome(dict):
    """What became of a mutant: `verdict` is refused, equal, unjudged or FAULT."""


def in_child(work: Callable[[], object], said: Path) -> tuple[int | None, int | None, str]:
    """Exit code or signal of a forked child that does `work`, and what it said."""
    child = os.fork()
    if child == 0:
        code = 99
        try:
            out = os.open(said, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            for descriptor in (1, 2):
                os.dup2(out, descriptor)
            resource.setrlimit(resource.RLIMIT_DATA, (MEMORY, MEMORY))
            resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
            signal.alarm(SECONDS)
            work()
            code = 0
        except Exception:  # noqa: BLE001 - whatever it is, it is told
            traceback.print_exc()
        finally:
            for stream in (sys.stdout, sys.stderr):
                stream.flush()
            os._exit(code)
    status = os.waitpid(child, 0)[1]
    text = said.read_text(errors="replace")
    if os.WIFSIGNALED(status):
        return None, os.WTERMSIG(status), text
    return os.WEXITSTATUS(status), None, text


def run_command(mutant: Path, output: Path, rng: Random) -> list[str]:
    """Arguments: now and then those of `info`."""
    if rng.random() < 0.1:
        return ["tileconv", "info", str(mutant)]
    options = "--kernel identity --dtype input --workers 1 --memory 1GiB --quiet"
    return ["tileconv", "convolve", str(mutant), str(output), *options.split()]


def judge(mutant: Path, output: Path) -> None:
    """Compare; print one word, and why."""
    logging.disable()
    warnings.simplefilter("ignore")
    try:
        if mutant.suffix == ".tif":
            expected, tolerance = decoders.tiff_pixels(mutant)
        else:
            expected, tolerance = decoders.zarr_pixels(mutant)
    except decoders.Unknown as error:
        print("unjudged", error)
        return
    except Exception as error:  # noqa: BLE001 - any other refusal
        print("unrefused", type(error).__name__, " ".join(str(error).split())[:150])
        return
    got = np.asarray(zarr.open_array(str(output), mode="r")[...])
    if got.shape != expected.shape or got.dtype != expected.dtype.newbyteorder("="):
        print("wrong", got.shape, got.dtype, "instead of", expected.shape, expected.dtype)
        return
    if got.dtype.kind in "iu" and got.dtype.itemsize == 8:
        # Sums are formed in float64.
        far = np.abs(got.astype("f8") - expected.astype("f8")) > np.abs(got.astype("f8")) * 2.0**-52
    elif tolerance:
        far = np.abs(got.astype("i8") - expected.astype("i8")) > tolerance
    else:
        far = got != expected
        if got.dtype.kind in "fc":
            far &= ~(np.isnan(got) & np.isnan(expected))
    print("equal" if not far.any() else f"wrong {int(far.sum())} of {far.size} pixels")


def outcome_of(mutant: Path, work: Path, rng: Random) -> Outcome:
    """Run tileconv on a mutant in a child, and judge it in another."""
    output, said = work / "out.zarr", work / "said"
    arguments = run_command(mutant, output, rng)

    def command() -> None:
        sys.argv = arguments
        tileconv.__main__.main()

    started = time.monotonic()
    code, sign, text = in_child(command, said)
    found = Outcome(
        command=arguments[1], code=code, signal=sign, seconds=time.monotonic() - started
    )
    found["said"] = text[-600:]
    if code in REFUSED:
        # What the user asked for, or allowed, may be the matter: then the file need not be named.
        clean = len(text.splitlines()) == 1 and (code != 3 or str(mutant) in text)
        # What does not fit was allocated before it was looked at.
        clean &= "Traceback" not in text and (code != 3 or "memory" not in text.lower())
        found["verdict"] = "refused" if clean else "FAULT"
    elif code != 0:
        found["verdict"] = "FAULT"
        if sign == signal.SIGALRM and _is_large(mutant, said):
            found["verdict"] = "unjudged"
    elif arguments[1] == "info":
        found["verdict"] = "described"
    else:
        code, sign, text = in_child(lambda: judge(mutant, output), said)
        words = text.split() or ["silent"]
        found["judged"] = text[-300:] if code == 0 else f"referee: {code} {sign} {text[-300:]}"
        found["verdict"] = words[0] if words[0] in ("equal", "unjudged") else "FAULT"
    return found


def _is_large(mutant: Path, said: Path) -> bool:
    """Whether a legal file simply has more pixels than can be computed in that time."""

    def look() -> None:
        from tileconv.stores.formats import open_source

        with open_source(mutant) as source:
            print("large" if source.raster.nbytes > decoders.MOST_BYTES else "small")

    return in_child(look, said)[2].startswith("large")


def make_mutant(seed_file: Path, work: Path, rng: Random, *, intact: bool) -> tuple[Path, str]:
    """A damaged copy of a seed, and how it was damaged."""
    mutant = work / f"mutant{seed_file.suffix}"
    if seed_file.is_dir():
        shutil.copytree(seed_file, mutant)
        return mutant, "intact" if intact else mutate_zarr(mutant, rng)
    data = seed_file.read_bytes()
    done, data = ("intact", data) if intact else mutate_tiff(data, rng)
    mutant.write_bytes(data)
    return mutant, done


def warm_up(seed_file: Path, output: Path) -> None:
    """One job before the forks: what it imports and loads is there for all of them."""
    tables = {
        "input": {"path": str(seed_file)},
        "kernel": {"name": "identity"},
        "output": {"path": str(output), "dtype": "input"},
        "run": {"memory": "1GiB", "workers": 1},
    }
    tileconv.run(tables)
    gc.freeze()
    if threading.active_count() > 1:
        raise RuntimeError(f"a thread would be lost in a fork: {threading.enumerate()}")


def run_all(
    seed: int, numbers: range, keep: Path | None, *, intact: bool = False
) -> dict[str, object]:
    """Outcomes of mutants, counted, or of every seed as it is; the faults in full."""
    counts: collections.Counter[str] = collections.Counter()
    faults: list[Outcome] = []
    slowest = 0.0
    with tempfile.TemporaryDirectory(prefix="mutants-") as folder:
        seeds = Path(folder) / "seeds"
        seeds.mkdir()
        # By a process of its own: writing starts threads.
        command = [sys.executable, str(Path(__file__).with_name("seeds.py")), str(seeds)]
        subprocess.run(command, check=True)
        files = sorted(seeds.iterdir())
        warm_up(seeds / "raw-tiled.tif", Path(folder) / "warm.zarr")
        for number in range(len(files)) if intact else numbers:
            rng = Random(f"{seed}-{number}")
            work = Path(folder) / "work"
            work.mkdir()
            seed_file = files[number] if intact else rng.choice(files)
            mutant, done = make_mutant(seed_file, work, rng, intact=intact)
            found = outcome_of(mutant, work, rng)
            found |= {"number": number, "seed_file": seed_file.name, "mutation": done}
            counts[found["verdict"]] += 1
            slowest = max(slowest, found["seconds"])
            if found["verdict"] == "FAULT":
                faults.append(found)
            if keep is not None:
                shutil.copytree(work, keep / str(number), symlinks=True)
                print(json.dumps(found), file=sys.stderr)
            shutil.rmtree(work)
    return {"seed": seed, "counts": dict(counts), "slowest_s": slowest, "faults": faults}


def main() -> None:
    """Options in, JSON out."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--count", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--start", type=int, default=0)
    parser.add_argument("--keep", type=Path)
    parser.add_argument("--intact", action="store_true", help="every seed as it is, once")
    options = parser.parse_args()
    numbers = range(options.start, options.start + options.count)
    found = run_all(options.seed, numbers, options.keep, intact=options.intact)
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
