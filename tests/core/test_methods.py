"""The choice of a method: what is served, what is refused, what is cheapest."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import fft

from tileconv.core.factors import TRUNCATION, factorise
from tileconv.core.kernels import Kernel, named_weights
from tileconv.core.methods import Choice, Method, choose
from tileconv.core.overlap_save import STEPS, UNIT, fast_length, plan_cells
from tileconv.errors import ConfigError, MethodError

F4, F8, U1 = np.dtype(np.float32), np.dtype(np.float64), np.dtype(np.uint8)
C8 = np.dtype(np.complex64)
RNG = np.random.default_rng(11)


def gaussian(sigma: float) -> Kernel:
    return Kernel(named_weights("gaussian", {"sigma": sigma}), (0, 0))


def dense(size: int) -> Kernel:
    return Kernel(RNG.normal(size=(size, size + 1)), (0, 0))


def best(kernel: Kernel, given: np.dtype = U1, sums: np.dtype = F4, **extra: object) -> Choice:
    return choose(kernel, given, sums, **{"output_dtype": sums, **extra})


def test_the_cheapest_method_is_chosen() -> None:
    assert best(dense(3)).method is Method.DIRECT
    assert best(dense(7)).method is Method.DIRECT
    assert best(dense(40)).method is Method.FFT
    assert best(gaussian(3.0)).method is Method.SEPARABLE
    laplacian = Kernel(named_weights("gaussian_laplace", {"sigma": 2.0}), (0, 0))
    assert best(laplacian).method is Method.SEPARABLE
    assert best(laplacian).reason.startswith("rank 2: ")
    assert best(dense(3), sums=np.dtype(np.longdouble)).method is Method.REFERENCE


def test_a_choice_is_pure_and_says_what_it_costs() -> None:
    first, second = best(gaussian(2.0)), best(gaussian(2.0))
    assert first == second
    assert best(dense(9)).ns_per_pixel > best(dense(3)).ns_per_pixel


def test_integers_equal_scipys() -> None:
    whole, rounded = Kernel(np.outer([1, 2, 1], [1, 0, -1]), (0, 0)), gaussian(2.0)
    large = Kernel(RNG.integers(-9, 9, (40, 40)), (0, 0))
    # Integer sums wrap: only whole factors give the same.
    for dtype in (np.dtype(np.int16), np.dtype(np.uint64)):
        assert best(large, dtype, dtype, exact=True).method is Method.DIRECT
    assert best(large, np.dtype(np.int16), np.dtype(np.int16)).method is Method.DIRECT
    # Truncated into integers, the last bit of a float sum decides.
    assert best(rounded, U1, F8, output_dtype=U1, exact=True).method is Method.DIRECT
    assert best(large, U1, F8, output_dtype=U1, exact=True).method is Method.DIRECT
    assert best(rounded, U1, F8, exact=True).method is Method.SEPARABLE
    assert choose(
        whole, U1, F8, output_dtype=U1, exact=True, forced="separable"
    ).method is Method.SEPARABLE  # fmt: skip
    # Sums of floats are whole only by chance.
    with pytest.raises(MethodError, match="^separable: "):
        choose(whole, F8, F8, output_dtype=U1, exact=True, forced="separable")
    with pytest.raises(MethodError, match="^fft: "):
        choose(whole, U1, F8, output_dtype=U1, exact=True, forced="fft")


def test_a_jobs_integers_are_rounded_right() -> None:
    """Whole sums come out right where the error bound is below a half, and else directly."""
    large = Kernel(RNG.integers(1, 9, (60, 60)), (0, 0))
    assert best(large, U1, F8, output_dtype=np.dtype(np.int32)).method is Method.FFT
    assert best(large, U1, F4, output_dtype=np.dtype(np.uint16)).method is Method.DIRECT
    assert best(gaussian(20.0), U1, F4, output_dtype=U1).method is not Method.DIRECT


I8, U8, U4 = np.dtype(np.int64), np.dtype(np.uint64), np.dtype(np.uint32)


def test_transforms_of_wide_integers_are_exact_in_pieces_of_16_bits() -> None:
    large = Kernel(np.ones((60, 61)) + np.eye(60, 61), (0, 0))
    for dtype, sums, limbs in ((I8, I8, 4), (U8, U8, 4), (U4, F8, 2)):
        choice = best(large, dtype, sums, output_dtype=dtype)
        assert (choice.method, choice.limbs) == (Method.FFT, limbs)
        assert best(large, dtype, sums, output_dtype=dtype, forced="fft").limbs == limbs
        direct = best(large, dtype, sums, output_dtype=dtype, forced="direct")
        assert choice.ns_per_pixel < direct.ns_per_pixel
    # 2**-40 S max|x| stays below one half: as they are.
    assert best(large, np.dtype(np.uint16), F8, output_dtype=U4, forced="fft").limbs == 1
    # The pieces of 16 bits have too large a sum; the fill value has no pieces; scipy truncates.
    heavy = Kernel(large.weights * 2.0**12, (0, 0))
    with pytest.raises(MethodError, match="^fft: "):
        best(heavy, U4, F8, output_dtype=U4, forced="fft")
    assert best(heavy, U4, F8, output_dtype=U4).method is Method.DIRECT
    for extra in ({"fill": -1}, {"exact": True}):
        assert best(large, U4, F8, output_dtype=U4, **extra).method is Method.DIRECT
    # Floats are not held to more than the bound.
    assert best(large, I8, F8).limbs == 1


def test_the_bound_of_transforms_in_double_decides_about_integers() -> None:
    """design.md: 2^-40 S M for fft, 64 eps S M for the others; below one half is exact."""
    for reach, limbs in ((2**38, 1), (2**40, 2)):
        weights = np.zeros((40, 40))
        weights[0, 0], weights[7, 9], weights[9, 7] = reach // 2**32 - 2, 1, 1
        choice = best(Kernel(weights, (0, 0)), U4, F8, output_dtype=I8, forced="fft")
        assert choice.limbs == limbs
    rank_one = Kernel(np.outer(np.arange(1.0, 30), np.arange(1.0, 31)), (0, 0))
    assert best(rank_one, I8, F8, output_dtype=I8).method is Method.SEPARABLE


def test_forced_methods() -> None:
    for method in Method:
        choice = best(gaussian(1.0), forced=method.value)
        assert choice.method is method
        assert choice.reason == "asked for"
    with pytest.raises(MethodError, match=r"^separable: the 9 x 10 kernel .*float32"):
        best(dense(9), forced="separable")
    with pytest.raises(ConfigError, match="'fast'.*auto, reference, direct, separable, fft"):
        best(dense(9), forced="fast")


def test_no_method_serves() -> None:
    with pytest.raises(MethodError, match="reference"):
        best(Kernel(np.array([[1, 0]]), (0, 0)), sums=np.dtype(object))


@settings(deadline=None, max_examples=60)
@given(
    column=st.lists(st.integers(-50, 50), min_size=1, max_size=7),
    row=st.lists(st.integers(-50, 50), min_size=1, max_size=7),
    dtype=st.sampled_from(["int32", "int64", "float32", "float64"]),
)
def test_whole_factors_are_exact(column: list[int], row: list[int], dtype: str) -> None:
    weights = np.outer(column, row).astype(dtype)
    factors = factorise(Kernel(weights, (0, 0)), np.dtype(dtype))
    assert factors is not None
    assert factors.whole
    assert factors.terms == 1
    assert factors.rows.dtype == factors.columns.dtype == np.dtype(dtype)
    np.testing.assert_array_equal(np.outer(factors.columns[0], factors.rows[0]), weights)


@pytest.mark.parametrize("dtype", ["float32", "float64", "complex64", "complex128"])
@pytest.mark.parametrize("terms", [1, 2, 3])
def test_low_rank_within_the_bound(terms: int, dtype: str) -> None:
    weights = sum(np.outer(RNG.normal(size=24), RNG.normal(size=31)) for _ in range(terms))
    if dtype.startswith("complex"):
        weights = weights * (2 - 1j)
    kernel = Kernel(weights, (0, 0))
    factors = factorise(kernel, np.dtype(dtype))
    assert factors is not None
    assert factors.terms == terms
    wide = np.complex128 if dtype.startswith("complex") else np.float64
    rebuilt = np.einsum("tj,ti->ji", factors.columns.astype(wide), factors.rows.astype(wide))
    rounding = 2 * 4  # The factors' own, for what `GROWTH` allows.
    left = np.abs(rebuilt - weights).sum()
    assert left <= (TRUNCATION + rounding) * np.finfo(dtype).eps * kernel.gain


def test_no_factors_where_they_would_not_pay_or_not_hold() -> None:
    assert factorise(dense(20), F8) is None
    assert factorise(Kernel(np.eye(3), (0, 0)), F8) is None
    assert factorise(Kernel(np.array([[2, 3], [4, 5]]), (0, 0)), np.dtype(np.int32)) is None
    assert factorise(Kernel(np.array([[np.nan, 1.0]]), (0, 0)), F8) is None
    near = np.outer([1.0, 2, 3], [1.0, 1, 1])
    near[0, 0] += 1e-7
    assert factorise(Kernel(near, (0, 0)), F8) is None
    assert factorise(Kernel(near, (0, 0)), F4) is not None


@settings(deadline=None, max_examples=200)
@given(st.integers(1, 10**6))
def test_fast_lengths_are_scipys(n: int) -> None:
    assert fast_length(n) == fft.next_fast_len(n, real=True)


@settings(deadline=None, max_examples=40)
@given(st.tuples(st.integers(1, 300), st.integers(1, 300)), st.sampled_from([F4, F8, C8]))
def test_cells_hold_their_windows(shape: tuple[int, int], dtype: np.dtype) -> None:
    cells = plan_cells(shape, dtype)
    assert cells.step[1] == cells.width * cells.windows
    for step, size, k in zip((cells.step[0], cells.width), cells.size, shape, strict=True):
        assert step in STEPS
        assert size >= step + k - 1
        assert size % UNIT == 0


def test_choosing_imports_nothing_heavy() -> None:
    code = (
        "import sys, tileconv.core.methods, tileconv.core.engines\n"
        "heavy = {'scipy', 'numba', 'dask', 'zarr', 'tifffile'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
