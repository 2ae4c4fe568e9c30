"""Every benchmark, on something small: that it runs, not how fast."""

import json
import subprocess
import sys
from pathlib import Path

BENCHMARKS = Path(__file__).resolve().parent.parent / "benchmarks"


def run(tmp_path, name, *arguments):
    said = tmp_path / "said.json"
    command = [sys.executable, str(BENCHMARKS / name), *arguments, "--json", str(said)]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return json.loads(said.read_text())


def test_ten_million_tiles(tmp_path):
    cases = ("plan", "resume", "resume, TIFF", "cluster, tasks")
    words = [word for case in cases for word in ("--case", case)]
    said = run(tmp_path, "ten_million_tiles.py", "--tiles", "20000", "--tasks", "60", *words)
    assert said["plan"]["tiles"] >= 20000
    for case in ("resume", "resume, TIFF"):
        assert said[case]["resumed_tiles"] == said[case]["tiles"] - 100
    assert said["cluster, tasks"]["tasks"] >= 60


def test_lazy_graph(tmp_path):
    run(tmp_path, "lazy_graph.py", "--blocks", "64")


def test_cluster_scaling(tmp_path):
    said = run(tmp_path, "cluster_scaling.py", "--side", "1024", "--rounds", "1")
    assert said["2 processes over 1 process"] > 0
