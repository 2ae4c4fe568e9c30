"""A peer of the speed benchmark: libvips, by its own streaming from TIFF to TIFF.

    python vips.py INPUT OUTPUT conv|convsep|gaussblur [--kernel FILE] [--sigma S] ...

libvips copies the edge pixel outwards, tileconv's ``--boundary nearest``. Threads are those of
VIPS_CONCURRENCY, which the benchmark sets. Kernels are flipped here: conv is a correlation.
"""

from __future__ import annotations

import argparse

import numpy as np
import pyvips


def weights_matrix(weights: np.ndarray, *, integer: bool, rounded: bool) -> pyvips.Image:
    """The weights as libvips takes them.

    Parameters
    ----------
    weights : ndarray
        Two axes, normalised.
    integer : bool
        Whether products are of integers: weights become whole numbers up to 127 over a scale.
        (libvips rounds weights as they are, and normalised ones would all be 0.)
    rounded : bool
        Whether the result is cast to integers: an offset of a half makes libvips's cutting
        off a rounding, without another pass over the pixels. Its integer sums round anyway.
    """
    flipped = weights[::-1, ::-1]
    if not integer:
        return pyvips.Image.new_from_array(flipped.tolist(), 1.0, 0.5 if rounded else 0.0)
    whole = np.rint(flipped * (127 / flipped.max()))
    return pyvips.Image.new_from_array(whole.tolist(), float(whole.sum()))


def filtered(image: pyvips.Image, given: argparse.Namespace) -> pyvips.Image:
    """The convolution, not computed yet."""
    if given.operation == "gaussblur":
        return image.gaussblur(given.sigma)
    weights = np.atleast_2d(np.load(given.kernel))
    matrix = weights_matrix(
        weights, integer=given.precision == "integer", rounded=given.dtype == "uint8"
    )
    return getattr(image, given.operation)(matrix, precision=given.precision)


def main() -> None:
    """Convolve one file into another."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("input")
    parser.add_argument("output")
    parser.add_argument("operation", choices=("conv", "convsep", "gaussblur"))
    parser.add_argument("--kernel", help="a .npy of weights; of one axis for convsep")
    parser.add_argument("--sigma", type=float, default=5.0)
    parser.add_argument("--precision", choices=("float", "integer"), default="float")
    parser.add_argument("--dtype", choices=("uint8", "float32"), default="uint8")
    parser.add_argument("--compression", choices=("none", "deflate"), default="none")
    parser.add_argument("--level", type=int, default=6)
    given = parser.parse_args()
    # Operations of one run are never asked for twice.
    pyvips.cache_set_max(0)
    image = pyvips.Image.new_from_file(given.input, access="sequential")
    result = filtered(image, given).cast("uchar" if given.dtype == "uint8" else "float")
    packing = {"compression": given.compression}
    if given.compression == "deflate":
        packing |= {"level": given.level, "predictor": "horizontal"}
    result.tiffsave(
        given.output, tile=True, tile_width=512, tile_height=512, bigtiff=True, **packing
    )


if __name__ == "__main__":
    main()
