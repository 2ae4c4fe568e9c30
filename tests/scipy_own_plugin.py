"""A pytest plugin: scipy's own tests with tileconv's functions in place of scipy's.

Loaded by `test_scipy_own.py` into a pytest of its own (``-p scipy_own_plugin``), before
scipy's test modules are imported, because those keep the functions they import and
parametrise with. Every test runs once for each chunking of the first input. What happened
is written to the file that TILECONV_SCIPY_REPORT names.
"""

from __future__ import annotations

import inspect
import json
import os
import re
from collections import Counter
from functools import wraps
from pathlib import Path

import dask
import dask.array as da
import numpy as np
import pytest
import scipy.ndimage
import scipy.signal
from scipy._lib import _array_api

import tileconv.lazy

CHUNKINGS = [(1, 1), (2, 3), (5, 7)]

calls: Counter[str] = Counter()
current: dict[str, object] = {"chunks": CHUNKINGS[0]}
tests: list[dict[str, object]] = []


def chunked(array, axes):
    """`array` as a dask array: the chunking along `axes`, whole along the others."""
    array = np.asarray(array)
    chunks = [-1] * array.ndim
    for axis, size in zip(axes, current["chunks"], strict=False):
        if axis < array.ndim:
            chunks[axis] = size
    return da.from_array(array, chunks=tuple(chunks))


def computed(name, *args, **kwargs):
    """What tileconv's function of that name gives, computed."""
    calls[name] += 1
    lazy = getattr(tileconv.lazy, name)(*args, **kwargs)
    assert isinstance(lazy, da.Array)
    result = lazy.compute(scheduler="synchronous")
    assert result.shape == lazy.shape
    assert result.dtype == lazy.dtype
    return result


def signal_door(original):
    name = original.__name__

    @wraps(original)
    def door(in1, *args, **kwargs):
        return computed(name, chunked(in1, range(2)), *args, **kwargs)

    return door


def convolved_axes(array, axes):
    """The axes to chunk: those `axes` names; the last two where a test expects a refusal."""
    last = range(array.ndim)[-2:]
    if axes is None or not all(isinstance(axis, int) for axis in axes):
        return last
    return [axis % array.ndim for axis in axes]


def ndimage_door(original):
    """ndimage's functions also take one axis, or a kernel over more than two: scipy's part.

    They also fill an output array, which a lazy result cannot: the test's array is filled
    here with the result of its dtype.
    """
    name = original.__name__

    @wraps(original)
    def door(input, weights, output=None, *args, **kwargs):  # noqa: A002 - scipy's name
        array = np.asarray(input)
        long_axes = sum(size > 1 for size in np.shape(weights))
        if array.ndim < 2 or (kwargs.get("axes") is None and long_axes > 2):
            return original(input, weights, output, *args, **kwargs)
        lazily = chunked(array, convolved_axes(array, kwargs.get("axes")))
        if not isinstance(output, np.ndarray):
            return computed(name, lazily, weights, output, *args, **kwargs)
        output[...] = computed(name, lazily, weights, output.dtype.name, *args, **kwargs)
        return output

    return door


def replace(module, name, door):
    original = getattr(module, name)
    replaced = door(original)
    # scipy's test decorators look up what a function can do by the function itself.
    _array_api.xp_capabilities_table[replaced] = _array_api.xp_capabilities_table[original]
    setattr(module, name, replaced)


for function in ("convolve2d", "correlate2d"):
    replace(scipy.signal, function, signal_door)
for function in ("convolve", "correlate"):
    replace(scipy.ndimage, function, ndimage_door)


DOORS = (scipy.signal.convolve2d, scipy.signal.correlate2d)
DOORS += (scipy.ndimage.convolve, scipy.ndimage.correlate)


def is_ours(item):
    """Whether a test is of the functions replaced here, and within the reach of a session."""
    if item.get_closest_marker("slow"):
        return False  # Two GiB of pixels, chunked one by one.
    if item.cls.__name__ in ("TestConvolve2d", "TestCorrelate2d"):
        return True
    given = item.callspec.params.values()
    if any(param is door for param in given for door in DOORS):
        return True
    # Not the tests of correlate1d alone.
    body = inspect.getsource(item.function)
    named = re.search(r"ndimage\.(correlate|convolve)\b|_validate_complex", body)
    return named is not None and "1d" not in item.originalname and "filter_func" not in body


def pytest_collection_modifyitems(config, items):
    kept = [item for item in items if is_ours(item)]
    config.hook.pytest_deselected(items=[item for item in items if item not in kept])
    items[:] = kept


@pytest.fixture(autouse=True, params=CHUNKINGS, ids=str)
def chunking(request):
    current["chunks"] = request.param
    with dask.config.set(scheduler="synchronous"):
        yield


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_protocol(item, nextitem):
    before = calls.total()
    yield
    if tests and tests[-1]["id"] == item.nodeid:
        tests[-1]["calls"] = calls.total() - before


def pytest_runtest_logreport(report):
    if report.when == "call" or report.outcome != "passed":
        if tests and tests[-1]["id"] == report.nodeid:
            tests[-1]["outcome"] = report.outcome
        else:
            chunks = str(current["chunks"])
            entry = {"id": report.nodeid, "outcome": report.outcome, "chunks": chunks, "calls": 0}
            tests.append(entry)


def pytest_sessionfinish(session):
    Path(os.environ["TILECONV_SCIPY_REPORT"]).write_text(
        json.dumps({"tests": tests, "calls": calls}), encoding="utf-8"
    )
