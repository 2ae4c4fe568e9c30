"""Compiled: a weighted sum of shifted rows, for weights that are far between, or complex.

The inner loop runs along a row over slices taken once a tap, eight taps in one pass:
indexing the two-dimensional array inside it would stop LLVM from vectorising. Taps are
added in the order given, so that a pixel's value depends on its window alone, to the last
bit, wherever its row begins.
"""

from __future__ import annotations

import numpy as np

from tileconv.core.loops.vectors import contiguous_row


def add_taps(
    x: np.ndarray, weights: np.ndarray, shifts: np.ndarray, out: np.ndarray, chained: int
) -> None:
    """Add ``sum over t of weights[0, t] * x[y + shifts[t, 0], i + shifts[t, 1]]`` to ``out[y, i]``.

    Parameters
    ----------
    x : ndarray
        Rows contiguous.
    weights : ndarray, shape (1, taps)
        In the dtype of `x` and `out`; integers wrap.
    shifts : ndarray of int64, shape (taps, 2)
        Rows and elements of a row; every shifted position lies in `x`.
    out : ndarray
        Rows contiguous.
    chained : int
        Whether each product is added to the sum of all before it, as scipy does, or first
        to the others of its pass of eight, which loses less.
    """
    w = contiguous_row(weights, 0)
    taps = w.size
    n = out.shape[1]
    for y in range(out.shape[0]):
        row = contiguous_row(out, y)
        t = 0
        while t + 8 <= taps:
            a0 = contiguous_row(x, y + shifts[t, 0])[shifts[t, 1] : shifts[t, 1] + n]
            a1 = contiguous_row(x, y + shifts[t + 1, 0])[shifts[t + 1, 1] : shifts[t + 1, 1] + n]
            a2 = contiguous_row(x, y + shifts[t + 2, 0])[shifts[t + 2, 1] : shifts[t + 2, 1] + n]
            a3 = contiguous_row(x, y + shifts[t + 3, 0])[shifts[t + 3, 1] : shifts[t + 3, 1] + n]
            a4 = contiguous_row(x, y + shifts[t + 4, 0])[shifts[t + 4, 1] : shifts[t + 4, 1] + n]
            a5 = contiguous_row(x, y + shifts[t + 5, 0])[shifts[t + 5, 1] : shifts[t + 5, 1] + n]
            a6 = contiguous_row(x, y + shifts[t + 6, 0])[shifts[t + 6, 1] : shifts[t + 6, 1] + n]
            a7 = contiguous_row(x, y + shifts[t + 7, 0])[shifts[t + 7, 1] : shifts[t + 7, 1] + n]
            w0, w1, w2, w3 = w[t], w[t + 1], w[t + 2], w[t + 3]
            w4, w5, w6, w7 = w[t + 4], w[t + 5], w[t + 6], w[t + 7]
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
            a0 = contiguous_row(x, y + shifts[t, 0])[shifts[t, 1] : shifts[t, 1] + n]
            w0 = w[t]
            for i in range(n):
                row[i] = row[i] + w0 * a0[i]
            t += 1
