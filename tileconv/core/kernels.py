"""Kernels: weights with an anchor, and the named ones.

A `Kernel` is kept the way it is applied, as a correlation::

    out[i] = sum over t of weights[t] * x[i + t - anchor]

so that flipping happens once, when the kernel is made, and nothing downstream asks
whether a job convolves or correlates.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from tileconv.core.grid import Halo, Shape
from tileconv.errors import ConfigError

MAX_WEIGHTS = 1 << 24
"""Most weights a kernel may have: 4096 x 4096; more is a mistake or an attack."""


@dataclass(frozen=True, slots=True, eq=False)
class Kernel:
    """Weights as they are correlated with the raster, and the weight that lies on the pixel.

    Parameters
    ----------
    weights : ndarray, 2-D
        Correlation weights: a convolution's are already flipped. Read-only.
    anchor : (int, int)
        Index of the weight that multiplies the output pixel's own position.
    skip_zeros : bool
        Whether weights of 0 (up to `ZERO_WEIGHT`) are left out, as scipy.ndimage does,
        so that NaN and infinity under them do not count. scipy.signal multiplies them.
    name : str
        For people: ``"gaussian(sigma=2)"``.
    """

    weights: np.ndarray
    anchor: Shape
    skip_zeros: bool = False
    name: str = "custom"

    def __post_init__(self) -> None:
        weights = np.ascontiguousarray(self.weights)
        if weights.ndim != 2:
            raise ConfigError(
                f"a kernel has 2 axes, got {weights.ndim} (shape {weights.shape}); "
                "give one row of weights for each row of the kernel"
            )
        if weights.size == 0:
            raise ConfigError(f"the kernel is empty: shape {weights.shape}; give at least 1 x 1")
        if weights.dtype.kind not in "biufcO":
            raise ConfigError(f"kernel weights must be numbers, got dtype {weights.dtype}")
        if not all(0 <= at < size for at, size in zip(self.anchor, weights.shape, strict=True)):
            raise ConfigError(f"anchor {self.anchor} lies outside the kernel's {weights.shape}")
        if weights is self.weights or weights.base is not None:
            weights = weights.copy()
        weights.flags.writeable = False
        object.__setattr__(self, "weights", weights)

    @property
    def shape(self) -> Shape:
        """Rows and columns of weights."""
        return self.weights.shape[0], self.weights.shape[1]

    @property
    def halo(self) -> Halo:
        """How far a pixel reads: `anchor` before it, the rest after it."""
        (rows, columns), (ay, ax) = self.shape, self.anchor
        return Halo(before=(ay, ax), after=(rows - 1 - ay, columns - 1 - ax))

    @property
    def gain(self) -> float:
        """Sum of the absolute weights: no output exceeds it times the largest input."""
        sizes = np.abs(self.weights.astype(np.result_type(self.weights, np.float64)))
        with np.errstate(over="ignore"):
            return float(sizes.sum())

    @property
    def fits_float32(self) -> bool:
        """Whether float32 holds the weights to its precision, compared with their sum.

        None is too large for it, and those that are subnormal there are small beside the others.
        """
        info = np.finfo(np.float32)
        sizes = np.abs(self.weights.astype(np.result_type(self.weights, np.float64)))
        most = float(sizes.max())
        return most <= float(info.max) and (
            most == 0 or self.gain >= sizes.size * float(info.smallest_normal)
        )

    @property
    def is_integral(self) -> bool:
        """Whether every weight is a whole number, whatever the dtype; infinity is none."""
        w = self.weights
        if w.dtype.kind == "f":
            return bool(np.isfinite(w).all() and np.all(w == np.rint(w)))
        return w.dtype.kind in "biu"

    @property
    def whole_sums(self) -> tuple[int, int]:
        """Sum of the positive weights, and of the magnitudes of the negative ones, exactly.

        The weights are whole numbers; see `is_integral`.
        """
        w = self.weights
        if w.dtype.kind == "f":
            w = w.astype(np.result_type(w, np.float64))
            if not bool(np.all(np.abs(w) < 2.0**63)):
                numbers = [int(value) for value in w.flat]
                return sum(n for n in numbers if n > 0), -sum(n for n in numbers if n < 0)
            w = w.astype(np.int64)
        elif w.dtype.kind == "b":
            w = w.astype(np.int8)
        return _whole_sum(w[w > 0]), -_whole_sum(w[w < 0])

    @property
    def active(self) -> np.ndarray:
        """Mask of the weights that are multiplied at all; all of them unless `skip_zeros`."""
        if not self.skip_zeros:
            return np.ones(self.shape, dtype=bool)
        return np.asarray(np.abs(self.weights) > ZERO_WEIGHT)


def _whole_sum(weights: np.ndarray) -> int:
    """Sum of integers of any size: their halves of 32 bits are summed apart."""
    if weights.itemsize <= 4:
        return int(weights.sum(dtype=np.int64))
    low = weights & weights.dtype.type(0xFFFFFFFF)
    return (int((weights >> weights.dtype.type(32)).sum()) << 32) + int(low.sum())


ZERO_WEIGHT = float(np.finfo(np.float64).eps)
"""scipy.ndimage's threshold (DBL_EPSILON in NI_Correlate) below which a weight is skipped."""


def flip(weights: np.ndarray) -> np.ndarray:
    """Weights reversed on both axes: what turns a convolution into a correlation."""
    return weights[::-1, ::-1]


def centred_kernel(
    weights: np.ndarray,
    *,
    convolving: bool,
    origin: Shape = (0, 0),
    name: str = "custom",
) -> Kernel:
    """A job's kernel: centred like scipy.signal's ``same``, moved by `origin`.

    Parameters
    ----------
    weights : ndarray, 2-D
        As the user wrote them.
    convolving : bool
        Convolution (the weights are flipped) or correlation.
    origin : (int, int)
        Moves the centre, which is the weight at ``(k - 1) // 2 + origin`` as the user wrote
        them. On even axes scipy.ndimage's origin for the same centre is this one minus 1.
    name : str

    Raises
    ------
    ConfigError
        The weights are no kernel, or the origin leads out of them.
    """
    weights = np.asarray(weights)
    if weights.ndim != 2:
        return Kernel(weights, (0, 0), name=name)  # Which refuses it, in words.
    centre = [(size - 1) // 2 + by for size, by in zip(weights.shape, origin, strict=True)]
    for axis, (at, size) in enumerate(zip(centre, weights.shape, strict=True)):
        if size and not 0 <= at < size:
            raise ConfigError(
                f"origin {origin[axis]} in {'yx'[axis]} leads out of the kernel's {size} weights "
                f"there; choose one in {-((size - 1) // 2)} .. {size // 2}"
            )
    if convolving:
        weights = flip(weights)
        centre = [size - 1 - at for size, at in zip(weights.shape, centre, strict=True)]
    return Kernel(weights, (centre[0], centre[1]), name=name)


# Named kernels: what scipy.ndimage's filter of that name computes, as convolution weights.


def _gaussian_taps(sigma: float, order: int, radius: int) -> np.ndarray:
    """Correlation weights of a Gaussian derivative, as scipy.ndimage._filters makes them.

    The derivative of order n is the Gaussian times a polynomial q found by repeating
    ``q' - q x / sigma**2``; reversed, because scipy correlates with it.
    """
    x = np.arange(-radius, radius + 1, dtype=np.float64)
    taps = np.exp(-0.5 / (sigma * sigma) * x**2)
    taps /= taps.sum()
    polynomial = np.polynomial.Polynomial([1.0])
    slope = np.polynomial.Polynomial([0.0, -1.0 / (sigma * sigma)])
    for _ in range(order):
        polynomial = polynomial.deriv() + polynomial * slope
    return (taps * polynomial(x))[::-1].copy() if order else taps


SIGMA_MIN = 1e-6
"""Far below any Gaussian that differs from a single 1, and far above where its square is 0."""


def _checked_sigma(sigma: float, truncate: float) -> int:
    """Radius of a Gaussian: ``int(truncate * sigma + 0.5)``, checked."""
    for key, value in (("sigma", sigma), ("truncate", truncate)):
        if not SIGMA_MIN <= value <= 1 / SIGMA_MIN:
            raise ConfigError(
                f"kernel.{key} must be a number in {SIGMA_MIN} .. {1 / SIGMA_MIN:.0f}, "
                f"got {value!r}"
            )
    radius = int(truncate * sigma + 0.5)
    if (2 * radius + 1) ** 2 > MAX_WEIGHTS:
        raise ConfigError(
            f"kernel.sigma {sigma!r} makes {2 * radius + 1} x {2 * radius + 1} weights, "
            f"more than {MAX_WEIGHTS}; downsample the raster first"
        )
    return radius


def _gaussian(sigma: float = 1.0, truncate: float = 4.0) -> np.ndarray:
    taps = _gaussian_taps(sigma, 0, _checked_sigma(sigma, truncate))
    return np.outer(taps, taps)


def _gaussian_laplace(sigma: float = 1.0, truncate: float = 4.0) -> np.ndarray:
    radius = _checked_sigma(sigma, truncate)
    smooth, curve = (_gaussian_taps(sigma, order, radius) for order in (0, 2))
    return np.outer(curve, smooth) + np.outer(smooth, curve)


def _box(size: int = 3) -> np.ndarray:
    if size < 1 or size * size > MAX_WEIGHTS:
        raise ConfigError(f"kernel.size must be 1 .. {math.isqrt(MAX_WEIGHTS)}, got {size!r}")
    return np.full((size, size), 1.0 / (size * size))


def _edge(smoothing: list[float], axis: str) -> np.ndarray:
    if axis not in ("x", "y"):
        raise ConfigError(f"kernel.axis must be 'x' or 'y', got {axis!r}")
    across_x = np.outer(smoothing, [-1.0, 0.0, 1.0])
    return across_x if axis == "x" else across_x.T


def _sobel(axis: str = "x") -> np.ndarray:
    return _edge([1.0, 2.0, 1.0], axis)


def _prewitt(axis: str = "x") -> np.ndarray:
    return _edge([1.0, 1.0, 1.0], axis)


def _laplace() -> np.ndarray:
    return np.array([[0.0, 1.0, 0.0], [1.0, -4.0, 1.0], [0.0, 1.0, 0.0]])


def _identity() -> np.ndarray:
    return np.ones((1, 1))


@dataclass(frozen=True, slots=True)
class NamedKernel:
    """One entry of `NAMED_KERNELS`: how to make it, and its parameters with their types."""

    correlation_weights: Callable[..., np.ndarray]
    parameters: Mapping[str, type]
    summary: str


NAMED_KERNELS: Mapping[str, NamedKernel] = {
    "gaussian": NamedKernel(
        _gaussian, {"sigma": float, "truncate": float}, "Gaussian, normalised, radius 4 sigma"
    ),
    "gaussian_laplace": NamedKernel(
        _gaussian_laplace, {"sigma": float, "truncate": float}, "Laplacian of a Gaussian"
    ),
    "box": NamedKernel(_box, {"size": int}, "mean of size x size pixels"),
    "sobel": NamedKernel(_sobel, {"axis": str}, "derivative along an axis, smoothed 1 2 1"),
    "prewitt": NamedKernel(_prewitt, {"axis": str}, "derivative along an axis, smoothed 1 1 1"),
    "laplace": NamedKernel(_laplace, {}, "sum of second differences"),
    "identity": NamedKernel(_identity, {}, "the raster itself"),
}


def named_weights(name: str, parameters: Mapping[str, object]) -> np.ndarray:
    """Convolution weights of a named kernel.

    Convolving with them gives what ``scipy.ndimage.<name>`` gives with its default
    size and origin; correlating gives the flipped kernel's result.

    Parameters
    ----------
    name : str
        A key of `NAMED_KERNELS`.
    parameters : mapping
        Values for its parameters; the others keep their defaults.

    Returns
    -------
    ndarray of float64, 2-D

    Raises
    ------
    ConfigError
        Unknown name or parameter, or a value of the wrong type or size.
    """
    try:
        kernel = NAMED_KERNELS[name]
    except KeyError:
        raise ConfigError(
            f"unknown kernel {name!r}; use one of {', '.join(NAMED_KERNELS)}, or a file"
        ) from None
    checked: dict[str, object] = {}
    for key, given in parameters.items():
        if key not in kernel.parameters:
            allowed = ", ".join(kernel.parameters) or "no parameters"
            raise ConfigError(f"kernel {name!r} has no parameter {key!r}; it takes {allowed}")
        wanted = kernel.parameters[key]
        value = float(given) if wanted is float and type(given) is int else given
        if type(value) is not wanted:
            raise ConfigError(f"kernel.{key} must be of type {wanted.__name__}, got {given!r}")
        checked[key] = value
    return flip(kernel.correlation_weights(**checked)).copy()
