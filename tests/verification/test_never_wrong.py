"""Right outputs of random jobs pass: any dtype, kernel, boundary, mode, cast, NaN and infinity."""

import numpy as np
import pytest

import tileconv
from tileconv.errors import ConfigError, InputError, TileconvError, VerificationError

PIXELS = [
    "bool", "uint8", "int8", "uint16", "int16", "int32", "uint32", "int64", "uint64",
    "float16", "float32", "float64", "complex64", "complex128",
]  # fmt: skip
OUTPUTS = [
    None, None, None, "uint8", "int8", "uint16", "int16", "int32", "uint32", "int64", "uint64",
    "float16", "float32", "float64", "complex64", "complex128",
]  # fmt: skip


def pixels_of(rng, dtype, shape):
    """Pixels as cameras, simulations and mistakes make them."""
    dtype = np.dtype(dtype)
    if dtype.kind == "b":
        return rng.random(shape) < 0.5
    if dtype.kind in "iu":
        info, few = np.iinfo(dtype), rng.random() < 0.5
        low, high = (max(info.min, -99), 99) if few else (info.min, info.max)
        return rng.integers(low, high, shape, dtype, endpoint=True)
    if dtype.kind == "c":
        x = np.empty(shape, dtype)
        x.real, x.imag = (pixels_of(rng, dtype.type(0).real.dtype, shape) for _ in "ri")
        return x
    x = rng.normal(size=shape) * 10.0 ** rng.integers(-3, 4)
    kind = rng.integers(6)
    if kind == 0:
        x = np.where(rng.random(shape) < 0.02, rng.choice([np.nan, np.inf, -np.inf], shape), x)
    elif kind == 1:
        x[rng.random(shape) < 0.02] = np.finfo(dtype).min
    elif kind == 2:
        x[:, : shape[1] // 2] = 0
    elif kind == 3:
        x *= np.finfo(dtype).smallest_subnormal * 5
    elif kind == 4:
        x[rng.random(shape) < 0.01] = 1e4
    return x.astype(dtype)


def weights_of(rng):
    """Kernels, some whole, some huge or denormal, some complex, some a product."""
    shape = tuple(int(n) for n in rng.choice([1, 2, 3, 4, 5, 9, 14], 2))
    match rng.integers(8):
        case 0 | 1:
            return rng.integers(-9, 10, shape)
        case 2:
            return np.outer(rng.random(shape[0]), rng.random(shape[1]))
        case 3:
            return rng.normal(size=shape) + 1j * rng.normal(size=shape)
        case 4:
            return rng.normal(size=shape) * 10.0 ** rng.integers(-44, 39)
        case 5:
            return np.ones(shape)
        case _:
            return rng.normal(size=shape)


def job_from(rng, job_of, methods):
    weights = weights_of(rng)
    shape = tuple(int(n) for n in rng.integers(1, 75, 2))
    mode = str(rng.choice(["same", "same", "full", "valid"]))
    if mode == "valid":
        shape = tuple(n + k for n, k in zip(shape, weights.shape, strict=True))
    convolution = {
        "mode": mode,
        "operation": str(rng.choice(["convolve", "correlate"])),
        "boundary": str(rng.choice(["symm", "wrap", "fill", "nearest", "mirror"])),
        "fill_value": float(rng.choice([0, 1, 2.5, -7])),
        "method": str(rng.choice(methods)),
        "origin": [int(rng.integers(-((n - 1) // 2), n // 2 + 1)) for n in weights.shape],
    }
    output = {"nan_fill": 3.0}
    if (dtype := rng.choice(OUTPUTS)) is not None:
        output["dtype"] = str(dtype)
    pixels = pixels_of(rng, rng.choice(PIXELS), shape)
    return job_of(pixels, weights, convolution=convolution, output=output)


def check(seed, job_of, methods):
    """Whether a random job could be run; its output has to pass then."""
    job = job_from(np.random.default_rng(seed), job_of, methods)
    try:
        with np.errstate(all="ignore"):
            tileconv.run(job)
    except VerificationError:
        raise
    except (ConfigError, InputError):
        return False  # What does not go together is refused.
    try:
        return tileconv.verify(job, everything=True).passed
    except TileconvError as error:
        pytest.fail(f"seed {seed}: {error}\n{job}")


@pytest.mark.parametrize("part", range(4))
@pytest.mark.filterwarnings("ignore:overflow encountered:RuntimeWarning")
def test_right_outputs_of_random_jobs_pass(job_of, part):
    ran = [check(seed, job_of, ["auto", "direct", "separable"]) for seed in range(part, 60, 4)]
    assert sum(ran) > 4


@pytest.mark.soak
@pytest.mark.parametrize("part", range(20))
@pytest.mark.filterwarnings("ignore:overflow encountered:RuntimeWarning")
def test_right_outputs_of_two_thousand_random_jobs_pass(job_of, part):
    methods = ["auto", "direct", "separable", "fft", "reference"]
    ran = [check(seed, job_of, methods) for seed in range(1000 + part, 3000, 20)]
    assert sum(ran) > 20
