"""Kernels and pixels of a wide range, their sums in long double, and how far others may be off.

The bound is that of docs: ``64 eps S M + n t`` over the window of each output, and 0 where the
window holds only zeros.
"""

import numpy as np

WIDE = np.longdouble


def kernels(rng, most=24):
    """Random weights of one of nine kinds, now and then very large or small."""
    shape = tuple(int(n) for n in rng.integers(1, most if rng.random() < 0.5 else 7, 2))
    y, x = np.mgrid[: shape[0], : shape[1]]
    spot = ((y - shape[0] / 2) / shape[0]) ** 2 + ((x - shape[1] / 2) / shape[1]) ** 2
    single = np.zeros(shape)
    single[rng.integers(shape[0]), rng.integers(shape[1])] = 1
    single[rng.integers(shape[0]), rng.integers(shape[1])] += 1e-3
    kinds = [
        lambda: rng.normal(size=shape),
        lambda: np.full(shape, 1 / spot.size),
        lambda: np.exp(-8 * spot) / np.exp(-8 * spot).sum(),
        lambda: single,
        lambda: (rng.random(shape) < 0.3) * rng.random(shape),
        lambda: np.exp(rng.normal(size=shape) * 8),
        lambda: sum(
            np.outer(rng.normal(size=shape[0]), rng.normal(size=shape[1]))
            for _ in range(rng.integers(1, 4))
        ),
        lambda: (spot < 0.2) / max(1, (spot < 0.2).sum()),
        lambda: rng.integers(-9, 9, shape).astype(float),
    ]
    weights = kinds[rng.integers(len(kinds))]()
    return weights * 10.0 ** rng.uniform(-30, 30) if rng.random() < 0.1 else weights


def pixels(rng, shape, dtype):
    """Random finite pixels of one of eleven kinds that transforms and long sums lose digits on."""
    dtype = np.dtype(dtype)
    if dtype.kind == "c":
        return pixels(rng, shape, dtype.type(0).real.dtype) + dtype.type(1j) * pixels(
            rng, shape, dtype.type(0).real.dtype
        )
    info = np.finfo(dtype)
    decades = float(np.log10(info.max)) - 1
    base = [
        lambda: rng.uniform(0.9, 1, shape),
        lambda: rng.normal(size=shape),
        lambda: np.full(shape, 1.2345),
        lambda: np.zeros(shape),
    ][rng.integers(4)]()
    rows, columns = shape
    patches = rng.random((rows // 16 + 1, columns // 16 + 1))
    patches = np.where(patches < 0.5, 0, 10.0 ** (80 * patches - 60))
    patches = patches.repeat(16, 0).repeat(16, 1)[:rows, :columns]

    def with_a_hole():
        y, x = rng.integers(rows), rng.integers(columns)
        base[y : y + 10, x : x + 10] = rng.choice([1e20, -3.4e38, 1e10, -9999999.0, 9e14, 1e37])
        return base

    def with_stars():
        count = rng.integers(1, 1 + rows * columns // 50 + 1)
        base[rng.integers(0, rows, count), rng.integers(0, columns, count)] = 6e6
        return base * 0.01

    kinds = [
        lambda: base,
        with_a_hole,
        with_stars,
        lambda: (rng.random(shape) < rng.choice([0.001, 0.01, 0.5])) * 1.0,
        lambda: 10.0 ** rng.uniform(-30, 30, shape) * rng.choice([-1, 1], shape),
        lambda: base * np.exp(np.linspace(0, rng.uniform(0, 60), rows))[:, None],
        lambda: base * float(rng.choice([info.smallest_normal, 1000 * info.smallest_subnormal])),
        lambda: base * 10.0 ** rng.uniform(-decades, decades),
        lambda: base * patches,
        lambda: rng.integers(0, 256, shape) * (rng.random(shape) < rng.random()) * 1.0,
        lambda: np.round(rng.exponential(size=shape) ** rng.uniform(1, 8), 2),
    ]
    with np.errstate(all="ignore"):
        made = kinds[rng.integers(len(kinds))]().astype(dtype)
    made[~np.isfinite(made)] = 0
    return made


def sums(block, weights):
    """Valid correlation, tap by tap, in long double."""
    wide = np.clongdouble if "c" in (block.dtype.kind, weights.dtype.kind) else WIDE
    block, weights = block.astype(wide), weights.astype(wide)
    rows, columns = (n - k + 1 for n, k in zip(block.shape, weights.shape, strict=True))
    total = np.zeros((rows, columns), wide)
    for y, x in np.argwhere(weights != 0):
        total += weights[y, x] * block[y : y + rows, x : x + columns]
    return total


def largest(block, shape):
    """The largest magnitude of each window."""
    block = np.abs(block.astype(np.result_type(block, WIDE)))
    for axis, length in enumerate(shape):
        count = block.shape[axis] - length + 1
        parts = [np.take(block, range(n, n + count), axis) for n in range(length)]
        block = np.maximum.reduce(parts)
    return block


def bound(block, weights, accumulator, method):
    """Error that each output may have before the cast, and where it may be infinite or NaN."""
    info = np.finfo(accumulator)
    gain = np.abs(weights.astype(np.result_type(weights, WIDE))).sum()
    double = info.dtype.itemsize == 8 and method == "fft"
    factor = WIDE(2.0) ** -40 if double else 64 * WIDE(info.eps)
    reach = gain * largest(block, weights.shape)
    most = factor * reach + weights.size * WIDE(info.smallest_subnormal)
    return np.where(reach == 0, WIDE(0), most), reach > WIDE(info.max)


def wrong(found, block, weights, accumulator, method):
    """Where sums are not within the bound.

    Parameters
    ----------
    found : ndarray
        Outputs, integers if they are rounded and saturated.
    block : ndarray
        The pixels of their windows.
    weights : ndarray
        As they are correlated.
    """
    want = sums(block, weights)
    most, beyond = bound(block, weights, accumulator, method)
    if found.dtype.kind in "iu":
        info = np.iinfo(found.dtype)
        low, high = (np.clip(np.rint(want + by), info.min, info.max) for by in (-most, most))
        found = found.astype(WIDE)
        # Out of the range NaN and infinities of both signs are right, whatever they become.
        return ~beyond & ((found < low) | (found > high))
    info = np.finfo(found.dtype)
    if info.eps > np.finfo(accumulator).eps:  # The cast's own rounding.
        # Of either part of complex sums.
        parts = np.sqrt(WIDE(1 + (found.dtype.kind == "c")))
        most = most + parts * (np.abs(want) * info.eps + info.smallest_subnormal) / WIDE(2)
        beyond = beyond | (np.abs(want) + most > WIDE(info.max))
    with np.errstate(all="ignore"):
        error = np.abs(found.astype(want.dtype) - want)
    return ~((error <= most) | (beyond & ~np.isfinite(found)))
