"""Every benchmark, on something small: that it runs, not how fast."""

import json
import os
import shutil
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


def speed(tmp_path, *arguments, benchmarks=BENCHMARKS):
    said = tmp_path / "speed.json"
    command = [sys.executable, str(benchmarks / "speed.py"), "--side", "600", "--rounds", "1"]
    command += [*arguments, "--json", str(said)]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=300)
    return done, json.loads(said.read_text())


def test_speed(tmp_path):
    jobs = ("dense-7", "deflate-7", "dense-31")
    done, said = speed(tmp_path, "--job", *jobs, "--peers", "floors", "oaconvolve")
    assert done.returncode == 0, done.stderr
    assert [job["name"] for job in said["jobs"]] == list(jobs)
    for job in said["jobs"]:
        assert len(job["ours"]) == 1
        (peer,) = job["peers"]
        assert peer["failed"] == ""
        assert peer["ratio"]["median"] > 0
        assert (peer["difference"] is None) == (peer["group"] == "floors")


def test_speed_gives_no_figure_to_a_wrong_answer(tmp_path):
    """A peer whose pixels are a thousandth too large."""
    shutil.copytree(BENCHMARKS, tmp_path / "benchmarks")
    script = tmp_path / "benchmarks" / "peers" / "overlap_oaconvolve.py"
    right = 'mode="valid")'
    assert right in script.read_text()
    script.write_text(script.read_text().replace(right, f"{right} * np.float32(1.001)"))
    words = ("--job", "dense-31", "--peers", "oaconvolve")
    done, said = speed(tmp_path, *words, benchmarks=script.parent.parent)
    assert done.returncode == 1
    (peer,) = said["jobs"][0]["peers"]
    assert peer["failed"].startswith("differs from ours by")
    assert (peer["runs"], peer["ratio"]) == ([], None)
    assert "failed: differs from ours by" in done.stdout


def test_speed_skips_peers_that_are_not_installed(tmp_path, monkeypatch):
    (tmp_path / "sitecustomize.py").write_text(
        "import sys\nsys.modules.update(pyvips=None, cv2=None)\n"
    )
    paths = [str(tmp_path), os.environ.get("PYTHONPATH", "")]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, paths)))
    words = ("--job", "dense-3", "memory", "--peers", "libvips", "opencv")
    done, said = speed(tmp_path, *words)
    assert done.returncode == 0, done.stderr
    assert said["jobs"][0]["peers"] == []
    assert said["memory"] == []
    assert "skipped: libvips conv, float: pyvips is not installed" in done.stdout
    assert "opencv-python-headless is not installed" in done.stdout
