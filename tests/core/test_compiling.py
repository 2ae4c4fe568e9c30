"""What is compiled is kept, and loaded without Numba; what is kept is not trusted blindly."""

import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from tileconv.core import compiling
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


def run(folder, before="", **environment):
    done = subprocess.run(
        [sys.executable, "-c", before + CODE],
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


def test_a_user_without_a_home_needs_none(tmp_path, monkeypatch):
    for variable in ("TILECONV_CACHE_DIR", "XDG_CACHE_HOME", "HOME"):
        monkeypatch.delenv(variable, raising=False)
    code = "import pathlib\ndef none(self): raise RuntimeError\npathlib.Path.expanduser = none\n"
    assert [run(tmp_path, before=code) for _ in range(2)] == ["compiled", "compiled"]


def test_what_numba_is_told_keeps_its_code_apart(tmp_path):
    kept = {"TILECONV_CACHE_DIR": str(tmp_path / "cache")}
    for setting in ({}, {"NUMBA_OPT": "0"}, {"NUMBA_DISABLE_JIT": "1"}):
        assert [run(tmp_path, **kept, **setting) for _ in range(2)] == ["compiled", "loaded"]


def test_threads_wait_for_the_one_that_compiles(monkeypatch):
    made = []

    class Slow(compiling.Loop):
        def __init__(self, *arguments, **more):
            made.append(arguments)
            time.sleep(0.05)
            super().__init__(*arguments, **more)

    monkeypatch.setattr(compiling, "Loop", Slow)
    monkeypatch.setattr(compiling, "_LOOPS", {})
    with ThreadPoolExecutor(8) as pool:
        dtypes = (np.dtype("f4"),) * 3
        calls = [pool.submit(loop, "registers", "correlate", dtypes, 3) for _ in range(8)]
        assert len({id(call.result()) for call in calls}) == 1
    assert len(made) == 1


def test_other_arrays_than_it_was_compiled_for_are_refused():
    correlate = loop("registers", "correlate", (np.dtype("f4"),) * 3, 3)
    right, wrong = np.zeros((3, 80), "f4"), np.zeros((3, 80), "f8")
    for arrays in ((wrong, right, right), (right, right, right[0])):
        with pytest.raises(TypeError, match="2 of float32"):
            correlate(*arrays, 1, 0, 64)
