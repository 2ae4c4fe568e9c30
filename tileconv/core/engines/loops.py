"""Compiled: a weighted sum of shifted rows, for weights that are far between, or complex.

The inner loop runs along a row over slices taken once a tap, eight taps in one pass:
indexing the two-dimensional array inside it would stop LLVM from vectorising. Taps are
added in the order given, so that a pixel's value depends on its window alone, to the last
bit, wherever its row begins.
"""

from __future__ import annotations

import numpy as np

from tileconv.core.compiling import compiled


def _add_taps(
    x: np.ndarray,
    weights: np.ndarray,
    shifts: np.ndarray,
    out: np.ndarray,
    chained: bool,  # noqa: FBT001 - Numba passes arguments by position
) -> None:
    """Add ``sum over t of weights[t] * x[y + shifts[t, 0], i + shifts[t, 1]]`` to ``out[y, i]``.

    Parameters
    ----------
    x : ndarray, 2-D, contiguous
    weights : ndarray, shape (taps,)
        In the dtype of `x` and `out`; integers wrap.
    shifts : ndarray of int64, shape (taps, 2)
        Rows and elements of a row; every shifted position lies in `x`.
    out : ndarray, 2-D, contiguous
    chained : bool
        Whether each product is added to the sum of all before it, as scipy does, or first
        to the others of its pass of eight, which loses less.
    """
    taps = weights.size
    n = out.shape[1]
    for y in range(out.shape[0]):
        row = out[y]
        t = 0
        while t + 8 <= taps:
            a0 = x[y + shifts[t, 0], shifts[t, 1] : shifts[t, 1] + n]
            a1 = x[y + shifts[t + 1, 0], shifts[t + 1, 1] : shifts[t + 1, 1] + n]
            a2 = x[y + shifts[t + 2, 0], shifts[t + 2, 1] : shifts[t + 2, 1] + n]
            a3 = x[y + shifts[t + 3, 0], shifts[t + 3, 1] : shifts[t + 3, 1] + n]
            a4 = x[y + shifts[t + 4, 0], shifts[t + 4, 1] : shifts[t + 4, 1] + n]
            a5 = x[y + shifts[t + 5, 0], shifts[t + 5, 1] : shifts[t + 5, 1] + n]
            a6 = x[y + shifts[t + 6, 0], shifts[t + 6, 1] : shifts[t + 6, 1] + n]
            a7 = x[y + shifts[t + 7, 0], shifts[t + 7, 1] : shifts[t + 7, 1] + n]
            w0, w1, w2, w3 = weights[t], weights[t + 1], weights[t + 2], weights[t + 3]
            w4, w5, w6, w7 = weights[t + 4], weights[t + 5], weights[t + 6], weights[t + 7]
            if chained:
                for i in range(n):
                    row[i] = (
                        row[i]
                        + w0 * a0[i]
                        + w1 * a1[i]
                        + w2 * a2[i]
                        + w3 * a3[i]
                        + w4 * a4[i]
                        + w5 * a5[i]
                        + w6 * a6[i]
                        + w7 * a7[i]
                    )
            else:
                for i in range(n):
                    row[i] = row[i] + (
                        w0 * a0[i]
                        + w1 * a1[i]
                        + w2 * a2[i]
                        + w3 * a3[i]
                        + w4 * a4[i]
                        + w5 * a5[i]
                        + w6 * a6[i]
                        + w7 * a7[i]
                    )
            t += 8
        while t < taps:
            a0 = x[y + shifts[t, 0], shifts[t, 1] : shifts[t, 1] + n]
            w0 = weights[t]
            for i in range(n):
                row[i] = row[i] + w0 * a0[i]
            t += 1


_add_taps_fused = compiled(fastmath={"contract", "nsz"})(_add_taps)
_add_taps_strict = compiled()(_add_taps)


def add_taps(
    x: np.ndarray, weights: np.ndarray, shifts: np.ndarray, out: np.ndarray, *, chained: bool
) -> None:
    """`_add_taps`, compiled for the dtype: float32 with fused products, the others without.

    Without, float64 sums are scipy.ndimage's to the last bit.
    """
    loop = _add_taps_fused if x.dtype == np.float32 else _add_taps_strict
    loop(x, weights, shifts, out, chained)
