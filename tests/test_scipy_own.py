"""scipy's own tests of its 2-D convolutions pass with tileconv's functions in their place.

They run in a pytest of their own, set up by `scipy_own_plugin.py`: `TestConvolve2d` and
`TestCorrelate2d` of scipy.signal (without `test_large_array`, which scipy marks slow and
which is 268 million pixels), and the tests of scipy.ndimage that call correlate or
convolve. Each runs with the first input as a dask array chunked (1, 1), (2, 3) and (5, 7).
"""

import importlib.util
import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent
MODULES = {
    "scipy.signal.tests.test_signaltools": ("TestConvolve2d", "TestCorrelate2d"),
    "scipy.ndimage.tests.test_filters": ("TestNdimageFilters",),
}
CHUNKINGS = ["(1, 1)", "(2, 3)", "(5, 7)"]
SETTINGS = "[pytest]\nfilterwarnings =\n    error\n    ignore::pytest.PytestWarning\n"


def shipped():
    """Whether this scipy came with its tests; some distributions leave them out."""
    try:
        return all(importlib.util.find_spec(module) for module in MODULES)
    except ModuleNotFoundError:
        return False


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    if not shipped():
        pytest.skip("this scipy was installed without its tests")
    folder = tmp_path_factory.mktemp("scipy_own")
    (folder / "settings.ini").write_text(SETTINGS, encoding="utf-8")
    selected = [f"{module}::{test}" for module, tests in MODULES.items() for test in tests]
    options = ["-c", "settings.ini", "-p", "no:cacheprovider", "-p", "no:xdist", "-q", "--tb=short"]
    environment = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("PYTEST_", "SCIPY_"))
    }
    environment |= {
        "PYTHONPATH": os.pathsep.join([str(HERE.parent), str(HERE)]),
        "PYTHONDONTWRITEBYTECODE": "1",
        "TILECONV_SCIPY_REPORT": str(folder / "report.json"),
    }
    run = subprocess.run(
        [sys.executable, "-m", "pytest", *options, "-p", "scipy_own_plugin", "--pyargs", *selected],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )
    assert run.returncode == 0, run.stdout[-5000:] + run.stderr[-2000:]
    return json.loads((folder / "report.json").read_text(encoding="utf-8"))


def test_every_test_passes(report):
    assert {test["outcome"] for test in report["tests"]} == {"passed"}


@pytest.mark.parametrize("chunks", CHUNKINGS)
def test_tileconv_was_what_they_tested(report, chunks):
    # So many call our functions in scipy 1.17 and 1.18; the others are of one axis.
    used = [test for test in report["tests"] if test["chunks"] == chunks and test["calls"]]
    classes = Counter(test["id"].split("::")[-2] for test in used)
    assert classes["TestConvolve2d"] >= 19
    assert classes["TestCorrelate2d"] >= 3
    assert classes["TestNdimageFilters"] >= 700


def test_every_function_was_called(report):
    assert set(report["calls"]) == {"convolve2d", "correlate2d", "convolve", "correlate"}
    assert all(report["calls"].values())
