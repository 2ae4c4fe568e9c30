"""The files that mutants are made of: each format, codec and layout that is read, and small.

python seeds.py FOLDER
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import numcodecs
import numpy as np
import tifffile
import zarr
from zarr.codecs import BloscCodec, BytesCodec, Crc32cCodec, GzipCodec, ShardingCodec, ZstdCodec


def pixels(shape: tuple[int, ...], dtype: str = "uint8", seed: int = 0) -> np.ndarray:
    """A ramp with noise on it: it compresses, and nothing in it is constant."""
    rng = np.random.default_rng(seed)
    ramp = np.add.outer(3 * np.arange(shape[-2]), 2 * np.arange(shape[-1]))
    noisy = (ramp + rng.integers(0, 9, shape)) % 251
    return noisy.astype(dtype)


def rgb(rows: int, columns: int) -> np.ndarray:
    """Smooth colours, which JPEG keeps nearly as they are."""
    return np.stack([pixels((rows, columns), seed=seed) // 2 + 40 * seed for seed in range(3)], -1)


TILED = {"tile": (32, 48), "metadata": None}
STRIPS = {"rowsperstrip": 11, "metadata": None}
TIFFS: dict[str, tuple[np.ndarray, dict[str, object]]] = {
    "raw-tiled": (pixels((90, 110)), TILED),
    "raw-strips": (pixels((60, 70), "uint16"), STRIPS),
    "big-endian-bigtiff": (
        pixels((70, 60), "uint16"), {**TILED, "bigtiff": True, "byteorder": ">"}),
    "deflate-tiled-predictor": (
        pixels((90, 110), "uint16"), {**TILED, "compression": "zlib", "predictor": True}),
    "deflate-strips": (pixels((90, 60)), {**STRIPS, "compression": "zlib"}),
    "lzw-predictor": (pixels((60, 70)), {**TILED, "compression": "lzw", "predictor": True}),
    "packbits": (pixels((60, 50)) // 16, {**STRIPS, "compression": "packbits"}),
    "zstd-tiled": (pixels((90, 110), "int16"), {**TILED, "compression": "zstd"}),
    "jpeg-ycbcr": (
        rgb(80, 96), {**TILED, "compression": "jpeg", "photometric": "rgb"}),
    "planar-deflate": (
        pixels((3, 50, 60)), {**TILED, "compression": "zlib", "photometric": "rgb",
                              "planarconfig": "separate"}),
    "float32-predictor": (
        pixels((60, 70), "float32") / 7, {**TILED, "compression": "zlib", "predictor": True}),
    "float64-raw": (pixels((40, 30), "float64") / 3, STRIPS),
    "lzma-strips": (pixels((60, 50)), {**STRIPS, "compression": "lzma"}),
    "png-tiled": (pixels((70, 60), "uint16"), {**TILED, "compression": "png"}),
    "webp-rgb": (
        rgb(64, 96), {**TILED, "compression": "webp", "photometric": "rgb",
                      "compressionargs": {"lossless": True}}),
    "jpeg2000": (pixels((70, 60)), {**TILED, "compression": "jpeg2000"}),
    "jpegxl": (pixels((70, 60)), {**TILED, "compression": "jpegxl"}),
    "lerc": (pixels((70, 60), "float32"), {**TILED, "compression": "lerc"}),
    "stack": (
        pixels((4, 30, 40), "uint16"), {"tile": (16, 16), "photometric": "minisblack"}),
    "one-block-stack": (
        pixels((5, 30, 40), "uint16"), {"truncate": True, "photometric": "minisblack"}),
    "imagej": (pixels((3, 30, 40), "uint16"), {"imagej": True, "metadata": {"axes": "ZYX"}}),
    "ome": (
        pixels((2, 3, 32, 40)), {"ome": True, "metadata": {"axes": "CZYX"}, "tile": (16, 16),
                                 "photometric": "minisblack", "compression": "zlib"}),
}  # fmt: skip


def pyramid(path: Path) -> None:
    """Three levels, the smaller two in SubIFDs."""
    with tifffile.TiffWriter(path) as writer:
        for level in range(3):
            writer.write(
                pixels((96 >> level, 128 >> level), seed=level),
                subifds=2 if level == 0 else 0,
                subfiletype=int(level > 0),
                compression="zlib",
                **TILED,
            )


def sparse(path: Path) -> None:
    """Two tiles of no bytes, and a nodata value for them."""
    nodata = [(42113, 2, 2, "7", True)]
    tifffile.imwrite(path, pixels((90, 110)), extratags=nodata, compression="zlib", **TILED)
    with tifffile.TiffFile(path, mode="r+b") as tif:
        for code in (324, 325):
            tag = tif.pages[0].tags[code]
            tag.overwrite([*tag.value[:4], 0, 0, *tag.value[6:]])


MORE_TIFFS: dict[str, Callable[[Path], None]] = {"subifd-pyramid": pyramid, "sparse": sparse}


def sharded(*inner: object, index: tuple[object, ...] = (BytesCodec(), Crc32cCodec())) -> dict:
    """Shards of 2 x 2 chunks."""
    codecs = [BytesCodec(), *inner]
    return {
        "chunks": (40, 40),
        "compressors": None,
        "serializer": ShardingCodec(chunk_shape=(20, 20), codecs=codecs, index_codecs=index),
    }


ZARRS: dict[str, dict[str, object]] = {
    "v2-zlib": {"zarr_format": 2, "compressors": numcodecs.Zlib(1)},
    "v2-blosc-delta": {
        "zarr_format": 2, "compressors": numcodecs.Blosc(), "filters": [numcodecs.Delta("<u2")]},
    "v2-f-order-raw": {"zarr_format": 2, "compressors": None, "order": "F"},
    "v2-lz4-big-endian": {"zarr_format": 2, "compressors": numcodecs.LZ4(), "dtype": ">u2"},
    "v3-zstd": {"compressors": ZstdCodec()},
    "v3-gzip": {"compressors": GzipCodec()},
    "v3-blosc": {"compressors": BloscCodec(typesize=2)},
    "v3-sharded-crc32c": sharded(ZstdCodec(), Crc32cCodec()),
    "v3-sharded-raw": sharded(index=(BytesCodec(),)),
}  # fmt: skip


def write_zarr(path: Path, options: dict[str, object]) -> None:
    """An array with one chunk, or shard, that was never written."""
    chosen = {"chunks": (20, 30), "dtype": "<u2", "fill_value": 5, **options}
    array = zarr.create_array(store=str(path), shape=(70, 80), **chosen)
    array[...] = np.where(np.indices((70, 80)).min(0) < 40, pixels((70, 80), "uint16"), 5)


def write_ome_zarr(path: Path) -> None:
    """An OME-Zarr image of two levels."""
    group = zarr.open_group(str(path), mode="w")
    for level in range(2):
        image = pixels((2, 60 >> level, 70 >> level), "uint16")
        array = group.create_array(
            str(level), shape=image.shape, dtype=image.dtype, chunks=(1, 20, 20)
        )
        array[...] = image
    axes = [{"name": "c", "type": "channel"}, *({"name": n, "type": "space"} for n in "yx")]
    datasets = [
        {"path": str(n), "coordinateTransformations": [{"type": "scale", "scale": [1, 1 << n, 1]}]}
        for n in range(2)
    ]
    group.attrs["ome"] = {
        "version": "0.5", "multiscales": [{"axes": axes, "datasets": datasets}]}  # fmt: skip


def write_seeds(folder: Path) -> None:
    """Every seed, each under its name."""
    for name, (image, options) in TIFFS.items():
        tifffile.imwrite(folder / f"{name}.tif", image, **options)
    for name, write in MORE_TIFFS.items():
        write(folder / f"{name}.tif")
    for name, options in ZARRS.items():
        write_zarr(folder / f"{name}.zarr", options)
    write_ome_zarr(folder / "ome.zarr")


if __name__ == "__main__":
    write_seeds(Path(sys.argv[1]))
