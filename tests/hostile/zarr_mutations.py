"""Damage to Zarr folders: each function changes the files of one."""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Callable
from pathlib import Path
from random import Random

import google_crc32c

METADATA = ("zarr.json", ".zarray", ".zattrs", ".zgroup")
ODD = (
    *(0, 1, -1, 2, 3, 7, 20, 21, 255, 65536, 1 << 31, (1 << 32) - 1, 1 << 40, 1 << 63, 1 << 64),
    *(10**30, 0.5, 1e308, float("nan"), float("inf"), True, None, "", "x", "NaN", "0", [], {}),
    *([0], [-1, 5], [1 << 40, 1 << 40], "|O", "<f4", ">u2", "<U5", "float32", "gzip", "zstd", "F"),
)
"""Values that a program may not have thought of."""

CODECS = (
    "pickle", "json2", "msgpack2", "vlen-utf8", "vlen-bytes", "categorize", "base64", "evil",
    "blosc", "zlib", "gzip", "bz2", "lzma", "lz4", "zstd", "delta", "shuffle", "bytes", "crc32c",
    "crc32", "transpose", "sharding_indexed", "packbits", "quantize", "fixedscaleoffset",
    "astype", "bitround", "numcodecs.zlib", "numcodecs.pickle", "numcodecs.delta",
)  # fmt: skip


def files_of(folder: Path, *, metadata: bool) -> list[Path]:
    """Its metadata files, or its chunks, in order."""
    files = sorted(path for path in folder.rglob("*") if path.is_file() and not path.is_symlink())
    return [path for path in files if (path.name in METADATA) == metadata]


def flip_bits(folder: Path, rng: Random) -> None:
    """Bits of a chunk, or of metadata."""
    path = rng.choice(files_of(folder, metadata=rng.random() < 0.3) or [folder / "zarr.json"])
    data = bytearray(path.read_bytes())
    for _ in range(rng.choice((1, 1, 2, 8))):
        if data:
            data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    path.write_bytes(data)


def resize(folder: Path, rng: Random) -> None:
    """A chunk that is empty, cut, longer, gone or another's."""
    chunks = files_of(folder, metadata=False)
    path = rng.choice(chunks)
    data = path.read_bytes()
    match rng.randrange(8):
        case 0:
            path.write_bytes(b"")
        case 1:
            path.write_bytes(data[: len(data) // 2])
        case 2:
            path.write_bytes(data + data)
        case 3:
            path.write_bytes(data[: rng.randrange(len(data) + 1)])
        case 4:
            path.write_bytes(data + rng.randbytes(rng.choice((1, 16, 100_000))))
        case 5:
            path.unlink()
        case 6:
            path.write_bytes(rng.choice(chunks).read_bytes())
        case _:
            path.write_bytes(rng.randbytes(len(data)))


def replace(folder: Path, rng: Random) -> None:
    """A folder, a pipe, a device or a link where a file should be."""
    path = rng.choice(files_of(folder, metadata=rng.random() < 0.5) or [folder / "zarr.json"])
    path.unlink()
    match rng.randrange(7):
        case 0:
            path.mkdir()
        case 1:
            os.mkfifo(path)
        case 2:
            path.symlink_to("/dev/zero")
        case 3:
            path.symlink_to(path)
        case 4:
            path.symlink_to("/proc/self/mem")
        case 5:
            path.symlink_to(path.parent)
        case _:
            with path.open("wb") as file:
                file.truncate(1 << 34)


def damage_text(folder: Path, rng: Random) -> None:
    """Metadata that are cut, nested without end, or not text."""
    path = rng.choice(files_of(folder, metadata=True))
    text = path.read_text()
    at = rng.randrange(len(text))
    texts = (
        text[:at],
        text[:at] + rng.choice('{}[]",:0x\\') + text[at + 1 :],
        text[:at] + "\0\ud800".encode("utf-16", "surrogatepass").decode("latin1") + text[at:],
        "[" * 200_000,
        '{"a":' * 100_000,
        text.rstrip().rstrip("}") + ', "attributes": ' + "[" * 50_000 + "]" * 50_000 + "}",
        text.rstrip().rstrip("}") + ', "shape": [9, 9]}',
        text + text,
        "null",
        "9" * 10_000,
        json.dumps({"zarr_format": 3, "node_type": "group", "attributes": {}}),
        " " * 3_000_000 + text,
    )
    path.write_text(rng.choice(texts), encoding="latin1")


def _nodes(value: object) -> list[tuple[dict | list, object]]:
    """Every container of a JSON document with each of its keys."""
    if not isinstance(value, dict | list):
        return []
    keys = list(value) if isinstance(value, dict) else list(range(len(value)))
    return [(value, key) for key in keys] + [pair for key in keys for pair in _nodes(value[key])]


def change_value(folder: Path, rng: Random) -> None:
    """A value of the metadata becomes an odd one, or goes."""
    path = rng.choice(files_of(folder, metadata=True))
    document = json.loads(path.read_text())
    for _ in range(rng.choice((1, 1, 1, 2))):
        nodes = _nodes(document)
        if nodes:
            parent, key = rng.choice(nodes)
            if rng.random() < 0.15:
                del parent[key]
            elif isinstance(parent[key], int) and rng.random() < 0.4:
                now = parent[key]
                parent[key] = rng.choice((now + 1, now - 1, now * 2, now // 2, -now))
            else:
                parent[key] = rng.choice(ODD)
    path.write_text(json.dumps(document))


def change_codec(folder: Path, rng: Random) -> None:
    """Another codec is named, or one is added, or left out, or is there often."""
    path = rng.choice([p for p in files_of(folder, metadata=True) if p.name != ".zattrs"])
    document = json.loads(path.read_text())
    if document.get("zarr_format") == 2:
        options = {"level": 1, "dtype": "<u2", "astype": "<f4", "elementsize": 2}
        codec = {"id": rng.choice(CODECS), **rng.choice(({}, options))}
        if rng.random() < 0.5:
            document["compressor"] = codec
        else:
            document["filters"] = [codec] * rng.choice((1, 1, 2, 1000))
    else:
        codecs = document.get("codecs")
        if isinstance(codecs, list) and codecs:
            inner = codecs[0].get("configuration", {}).get("codecs")
            codecs = inner if inner and rng.random() < 0.6 else codecs
            codec = {"name": rng.choice(CODECS), "configuration": rng.choice(({}, {"level": 1}))}
            at = rng.randrange(len(codecs))
            match rng.randrange(4):
                case 0:
                    codecs[at] = codec
                case 1:
                    codecs.insert(at, codec)
                case 2:
                    del codecs[at]
                case _:
                    codecs[at:at] = [codecs[at]] * rng.choice((1, 100))
    path.write_text(json.dumps(document))


def odd_shard(folder: Path, rng: Random) -> None:
    """A shard's index that points elsewhere, with a checksum that is right."""
    document = next(
        (json.loads(path.read_text()) for path in files_of(folder, metadata=True)
         if "sharding_indexed" in path.read_text()), None)  # fmt: skip
    path = rng.choice(files_of(folder, metadata=False))
    data = bytearray(path.read_bytes())
    if document is None or len(data) < 68:
        resize(folder, rng)
        return
    checked = len(document["codecs"][0]["configuration"]["index_codecs"]) == 2
    end = len(data) - 4 * checked
    number = rng.randrange(8)
    at = end - 64 + 8 * number
    now = struct.unpack_from("<Q", data, at)[0]
    near = (now + 1, max(0, now - 1), now // 2, len(data), 0, (1 << 64) - 1, 1 << 63, 1 << 32)
    struct.pack_into("<Q", data, at, rng.choice(near) % (1 << 64))
    if checked:
        struct.pack_into("<I", data, end, google_crc32c.value(bytes(data[end - 64 : end])))
    path.write_bytes(data)


MUTATIONS: tuple[Callable[[Path, Random], None], ...] = (
    flip_bits, flip_bits, resize, resize, resize, replace, replace, damage_text, change_value,
    change_value, change_value, change_codec, odd_shard,
)  # fmt: skip


def mutate_zarr(folder: Path, rng: Random) -> str:
    """Damage a copy of a seed; what was done."""
    mutation = rng.choice(MUTATIONS)
    mutation(folder, rng)
    return mutation.__name__
