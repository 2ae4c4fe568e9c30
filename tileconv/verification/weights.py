"""A job's weights, and which pixels they meet, made anew from what the user wrote.

A named kernel is scipy.ndimage's answer to a single 1. Nothing here comes from the kernels,
flips and offsets that the job computes with.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tileconv.core.grid import Region, Shape
from tileconv.jobs.config import Job, KernelSpec


@dataclass(frozen=True, slots=True, eq=False)
class Weights:
    """Weights in the order of the pixels they multiply.

    Output pixel ``(y, x)`` is the sum over ``(r, c)`` of ``values[r, c]`` times the input at
    ``(y + first[0] + r, x + first[1] + c)``.

    Parameters
    ----------
    values : ndarray, 2-D
        In the dtype they were given in.
    first : (int, int)
        Input position that the first weight meets at output pixel (0, 0).
    """

    values: np.ndarray
    first: Shape

    @property
    def shape(self) -> Shape:
        """Rows and columns."""
        rows, columns = self.values.shape
        return rows, columns

    @property
    def total(self) -> np.longdouble:
        """Sum of the magnitudes."""
        # Row by row: a kernel may have millions of weights.
        return np.longdouble(sum(magnitudes(row).sum() for row in self.values))

    @property
    def largest(self) -> np.longdouble:
        """The largest magnitude."""
        return np.longdouble(max(magnitudes(row).max() for row in self.values))

    @property
    def are_whole(self) -> bool:
        """Whether every weight is a real whole number."""
        values = self.values
        return values.dtype.kind in "biu" or (
            values.dtype.kind == "f" and bool((np.floor(values) == values).all())
        )

    def window(self, box: Region) -> Region:
        """Input positions that the outputs in `box` read; it may leave the raster."""
        (y, x), (rows, columns) = self.first, self.shape
        (top, left), (bottom, right) = box.start, box.stop
        return Region((top + y, left + x), (bottom + y + rows - 1, right + x + columns - 1))


def magnitudes(x: np.ndarray) -> np.ndarray:
    """Absolute values in long double, which holds those of every other dtype."""
    if x.dtype.kind == "c":
        return np.hypot(x.real.astype(np.longdouble), x.imag.astype(np.longdouble))
    return np.abs(x.astype(np.longdouble))


def weights_of(job: Job) -> Weights:
    """The weights of a job, turned over for a convolution, and where they lie.

    The centre is the weight at ``(k - 1) // 2 + origin`` as the user wrote them. A convolution
    pairs weight ``j`` with the pixel ``centre - j`` away, a correlation with ``j - centre``.
    """
    given = _named(job.kernel) if job.kernel.name is not None else job.kernel_weights()[0]
    convolution = job.convolution
    convolving = convolution.operation == "convolve"
    first = []
    for length, moved in zip(given.shape, convolution.origin, strict=True):
        centre = (length - 1) // 2 + moved
        lowest = min(centre - j if convolving else j - centre for j in (0, length - 1))
        # Outputs of full begin where the last weight meets pixel 0, those of valid the first.
        first.append({"same": lowest, "full": 1 - length, "valid": 0}[convolution.mode])
    values = np.flip(given) if convolving else given
    return Weights(np.ascontiguousarray(values), (first[0], first[1]))


def _named(spec: KernelSpec) -> np.ndarray:
    """Convolution weights of a named kernel: what scipy.ndimage makes of a single 1."""
    from scipy import ndimage

    given = spec.parameters
    axis = 0 if given.get("axis", "x") == "y" else 1
    match spec.name:
        case "gaussian" | "gaussian_laplace":
            sigma, truncate = (spec.sigma or 1.0), (spec.truncate or 4.0)
            radius = int(truncate * sigma + 0.5)
            one = _one((2 * radius + 1, 2 * radius + 1))
            gaussian = spec.name == "gaussian"
            apply = ndimage.gaussian_filter if gaussian else ndimage.gaussian_laplace
            return np.asarray(apply(one, sigma, truncate=truncate, mode="constant"))
        case "box":
            size = spec.size or 3
            spread = ndimage.uniform_filter(_one((2 * size + 1, 2 * size + 1)), size)
            at = np.flatnonzero(spread[size])
            return np.asarray(spread[at[0] : at[-1] + 1, at[0] : at[-1] + 1])
        case "sobel" | "prewitt":
            apply = getattr(ndimage, spec.name)
            return np.asarray(apply(_one((3, 3)), axis=axis, mode="constant"))
        case "laplace":
            return np.asarray(ndimage.laplace(_one((3, 3)), mode="constant"))
        case _:
            return np.ones((1, 1))


def _one(shape: Shape) -> np.ndarray:
    """Zeros with a 1 in the middle."""
    pixels = np.zeros(shape)
    pixels[shape[0] // 2, shape[1] // 2] = 1
    return pixels
