"""What is compiled is kept, also where the package's own folder cannot be written."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import tileconv

CODE = """
import numpy as np
from tileconv.core.engines.registers import _loops, correlate
correlate(np.ones((3, 90), "f4"), np.ones((3, 3), "f4"), np.empty((1, 88), "f4"))
print(sum(_loops(np.dtype("f4")).stats.cache_hits.values()))
"""


@pytest.mark.parametrize("writable", [True, False])
def test_compiled_code_survives(tmp_path, writable):
    package, home = tmp_path / "site" / "tileconv", tmp_path / "home"
    shutil.copytree(
        Path(tileconv.__file__).parent, package, ignore=shutil.ignore_patterns("__pycache__")
    )
    home.mkdir()
    if not writable:
        for folder in [package, *(path for path in package.rglob("*") if path.is_dir())]:
            # Stops root as well, for whom no folder is read-only.
            (folder / "__pycache__").touch()
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith(("NUMBA", "XDG"))
    } | {"HOME": str(home), "PYTHONPATH": str(package.parent), "PYTHONDONTWRITEBYTECODE": "1"}

    def hits():
        done = subprocess.run(
            [sys.executable, "-c", CODE],
            env=environment, cwd=tmp_path, check=True, capture_output=True, text=True,
        )  # fmt: skip
        return int(done.stdout)

    assert [hits(), hits()] == [0, 1]
    kept = list(home.rglob("*.nbc")), list(package.rglob("*.nbc"))
    assert [bool(files) for files in kept] == [not writable, writable]
