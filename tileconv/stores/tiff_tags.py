"""What a TIFF says about its pixels besides them, to be carried over to an output TIFF."""

from __future__ import annotations

from dataclasses import dataclass

TagEntry = tuple[int, int, int, object]
"""Tag code, TIFF data type, count, value: numbers, a tuple of numbers, or bytes."""

CARRIED_TAGS = {
    282: "XResolution",
    283: "YResolution",
    296: "ResolutionUnit",
    700: "XMP",
    33550: "ModelPixelScale",
    33922: "ModelTiepoint",
    34264: "ModelTransformation",
    34675: "InterColorProfile",
    34735: "GeoKeyDirectory",
    34736: "GeoDoubleParams",
    34737: "GeoAsciiParams",
    42112: "GDAL_METADATA",
    42113: "GDAL_NODATA",
}
"""Tags that stay true of a convolved raster, by code."""


@dataclass(frozen=True, slots=True)
class TiffTags:
    """Tags to be written again, in the order of their codes.

    Parameters
    ----------
    entries : tuple of (code, dtype, count, value)
        As tifffile's writer takes them in `extratags`: `dtype` is the TIFF data type
        (2 ASCII, 3 SHORT, 5 RATIONAL, 12 DOUBLE, ...), `count` the number of values.
        ASCII and bytes are `bytes` exactly as stored, the closing NUL included; rationals
        are a flat tuple of numerators and denominators.
    photometric : int or None
        PhotometricInterpretation: 0 white is zero, 1 black is zero, 2 RGB, 6 YCbCr, ...;
        what the *decoded* pixels are, so JPEG's YCbCr that is decoded to RGB says RGB.
    extrasamples : tuple of int
        Meaning of each sample beyond the colour ones: 0 unspecified, 1 premultiplied
        alpha, 2 alpha.
    """

    entries: tuple[TagEntry, ...] = ()
    photometric: int | None = None
    extrasamples: tuple[int, ...] = ()
