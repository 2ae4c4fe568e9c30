"""What is compiled is kept, and loaded without Numba; what is kept is not trusted blindly."""

import os
import subprocess
import sys

import numpy as np
import pytest

from tileconv.core.compiling import loop

CODE = """
import sys
import numpy as np
from tileconv.core.engines.summation import correlate
out = np.empty((1, 88), "f4")
correlate(np.ones((3, 90), "f4"), np.ones((3, 3), "f4"), out)
assert (out == 9).all()
print("compiled" if "numba" in sys.modules else "loaded")
"""


def run(folder, **environment):
    done = subprocess.run(
        [sys.executable, "-c", CODE],
        env=os.environ | environment, cwd=folder, check=True, capture_output=True, text=True,
    )  # fmt: skip
    return done.stdout.strip()


def test_compiled_code_survives(tmp_path):
    cache = tmp_path / "not" / "there"
    kept = {"TILECONV_CACHE_DIR": str(cache)}
    assert [run(tmp_path, **kept) for _ in range(2)] == ["compiled", "loaded"]
    (path,) = cache.iterdir()
    assert path.stat().st_mode & 0o077 == 0
    assert cache.stat().st_mode & 0o077 == 0


@pytest.mark.parametrize("name", ["XDG_CACHE_HOME", "HOME"])
def test_without_a_name_it_is_in_the_users_caches(tmp_path, name, monkeypatch):
    for variable in ("TILECONV_CACHE_DIR", "XDG_CACHE_HOME"):
        monkeypatch.delenv(variable, raising=False)
    run(tmp_path, **{name: str(tmp_path)})
    where = tmp_path / ".cache" if name == "HOME" else tmp_path
    assert list((where / "tileconv").iterdir())


@pytest.mark.parametrize("damage", ["cut", "changed", "emptied"])
def test_damaged_code_is_not_run(tmp_path, damage):
    kept = {"TILECONV_CACHE_DIR": str(tmp_path / "cache")}
    run(tmp_path, **kept)
    (path,) = (tmp_path / "cache").iterdir()
    whole = path.read_bytes()
    middle = len(whole) // 2
    changed = {
        "cut": whole[:middle],
        "changed": whole[:middle] + bytes([whole[middle] ^ 1]) + whole[middle + 1 :],
        "emptied": b"",
    }
    path.write_bytes(changed[damage])
    assert run(tmp_path, **kept) == "compiled"
    assert path.read_bytes() == whole
    assert run(tmp_path, **kept) == "loaded"


def test_where_nothing_can_be_kept_everything_works(tmp_path):
    # A file in the folder's place stops root as well.
    (tmp_path / "cache").touch()
    kept = {"TILECONV_CACHE_DIR": str(tmp_path / "cache")}
    assert [run(tmp_path, **kept) for _ in range(2)] == ["compiled", "compiled"]


def test_other_arrays_than_it_was_compiled_for_are_refused():
    correlate = loop("registers", "correlate", (np.dtype("f4"),) * 3, 3)
    right, wrong = np.zeros((3, 80), "f4"), np.zeros((3, 80), "f8")
    for arrays in ((wrong, right, right), (right, right, right[0])):
        with pytest.raises(TypeError, match="2 of float32"):
            correlate(*arrays, 1, 0, 64)
