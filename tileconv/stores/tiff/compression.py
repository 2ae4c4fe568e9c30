"""The compressions of TIFF output: their tags, levels, and how large and how hungry they get."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tileconv.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Codec:
    """A compression of TIFF tiles.

    Parameters
    ----------
    tag : int
        Value of the Compression tag.
    default, highest : int or None
        Levels, from 1; None for a codec without.
    """

    tag: int
    default: int | None = None
    highest: int | None = None

    def bound(self, raw_bytes: int) -> int:
        """Most bytes that `raw_bytes` are encoded in, from the worst case of each format."""
        match self.tag:
            case 1:
                return raw_bytes
            case 5:  # codes of at most 12 bits, each for at least 8
                return raw_bytes + raw_bytes // 2 + 64
            case 8:  # stored blocks of at least 5000 bytes, 5 bytes before each
                return raw_bytes + raw_bytes // 1000 + 64
            case _:  # ZSTD_COMPRESSBOUND
                return raw_bytes + raw_bytes // 256 + 64 + (1 << 10)

    def working_bytes(self, level: int | None, raw_bytes: int) -> int:
        """Most memory that encoding a tile takes, its result included.

        The result at its bound and cut to length, and the encoder's own tables: measured
        with imagecodecs 2026.3.6 on noise, rounded up.
        """
        match self.tag:
            case 1:
                return 0
            case 5:  # the result grows by doubling
                return 3 * self.bound(raw_bytes) + (1 << 20)
            case 8:  # from level 10 on libdeflate searches for the shortest encoding
                return 2 * self.bound(raw_bytes) + ((12 if (level or 0) > 9 else 1) << 20)
            case _:
                return 2 * self.bound(raw_bytes) + (4 << 20) + 20 * raw_bytes


CODECS = {
    "deflate": Codec(8, default=6, highest=12),
    "none": Codec(1),
    "lzw": Codec(5),
    "zstd": Codec(50000, default=3, highest=19),
}
"""Compressions by name. libvips's Python wheel reads zstd TIFF as zeros, without an error,
and old readers do not read it at all: it is for those who know their readers."""


def checked_codec(name: str, level: int | None) -> tuple[Codec, int | None]:
    """The codec of a name and the level in force.

    Raises
    ------
    ConfigError
        Unknown compression, or a level that it does not have.
    """
    try:
        codec = CODECS[name]
    except KeyError:
        raise ConfigError(
            f"TIFF output has no compression {name!r}; use one of {', '.join(CODECS)}"
        ) from None
    if codec.highest is None:
        if level is not None:
            raise ConfigError(
                f"compression {name!r} has no levels, got compression_level {level}; leave it out"
            )
        return codec, None
    if level is not None and not 1 <= level <= codec.highest:
        raise ConfigError(
            f"compression_level of {name!r} is 1 to {codec.highest}, got {level}; 1 is the fastest"
        )
    return codec, codec.default if level is None else level


def predictor(dtype: np.dtype, compression: str) -> int:
    """Value of the Predictor tag: 1 none, 2 differences, 3 floating point.

    64-bit integers have none: libtiff long read differences of 8, 16 and 32 bits only.
    """
    if compression == "none":
        return 1
    if dtype.kind == "f":
        return 3
    return 2 if dtype.kind in "iu" and dtype.itemsize <= 4 else 1
