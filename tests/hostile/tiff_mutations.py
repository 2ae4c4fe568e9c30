"""Damage to TIFF files: each function takes bytes and a random generator, and gives bytes."""

from __future__ import annotations

import struct
from collections.abc import Callable
from random import Random

from tiff_map import SIZES, Entry, Ifd, TiffMap

ODD = (0, 1, 2, 3, 7, 8, 16, 17, 255, 4096, 65535, 65536, 1 << 20, (1 << 31) - 1, 1 << 31,
       (1 << 32) - 1, 1 << 40, 1 << 62, 1 << 63, (1 << 64) - 1)  # fmt: skip
"""Numbers that a program may not have thought of."""

SHAPES = (256, 257, 258, 277, 278, 322, 323, 32997, 32998)
KINDS = (259, 262, 266, 284, 317, 339, 347, 530)
TABLES = (273, 279, 324, 325)

Mutation = Callable[[bytearray, TiffMap, Random], object]


def put(data: bytearray, tiff: TiffMap, entry: Entry, number: int, value: int) -> None:
    """Set one of a tag's values, cut to the bits it has."""
    size = SIZES.get(entry.dtype, 1)
    at = entry.value_at + number * size
    order = "little" if tiff.order == "<" else "big"
    data[at : at + size] = (value % (1 << 8 * size)).to_bytes(size, order)


def entry_of(tiff: TiffMap, rng: Random, codes: tuple[int, ...]) -> Entry | None:
    """One of these tags, of some directory."""
    found = [ifd.entries[code] for ifd in tiff.chain() for code in codes if code in ifd.entries]
    return rng.choice(found) if found else None


def regions(tiff: TiffMap) -> dict[str, list[tuple[int, int]]]:
    """What lies where: byte ranges by kind."""
    found: dict[str, list[tuple[int, int]]] = {
        "header": [(0, 16 if tiff.big else 8)],
        **{kind: [] for kind in ("ifd", "values", "tables", "data")},
    }
    for ifd in tiff.chain():
        found["ifd"].append((ifd.at, ifd.next_at + tiff.width))
        for entry in ifd.entries.values():
            kind = "tables" if entry.code in TABLES else "values"
            found[kind].append((entry.value_at, entry.value_at + entry.nbytes))
        found["data"] += segments(tiff, ifd)
    return {kind: ranges for kind, ranges in found.items() if ranges}


def segments(tiff: TiffMap, ifd: Ifd) -> list[tuple[int, int]]:
    """Byte ranges of the tiles or strips that a directory lists."""
    places, lengths = (324, 325) if 324 in ifd.entries else (273, 279)
    if places not in ifd.entries or lengths not in ifd.entries:
        return []
    pairs = zip(tiff.values(ifd.entries[places]), tiff.values(ifd.entries[lengths]), strict=False)
    return [(int(at), int(at + length)) for at, length in pairs if length]


def flip_bits(data: bytearray, tiff: TiffMap, rng: Random) -> None:
    """One to eight bits of a header, a directory, values, tables or pixels."""
    where = regions(tiff)
    for _ in range(rng.choice((1, 1, 1, 2, 8))):
        start, stop = rng.choice(where[rng.choice(sorted(where))])
        data[rng.randrange(start, stop)] ^= 1 << rng.randrange(8)


def odd_bytes(data: bytearray, tiff: TiffMap, rng: Random) -> None:
    """Two, four or eight bytes of a directory become an odd number."""
    start, stop = rng.choice(regions(tiff)["ifd"])
    size = rng.choice((2, 4, 8))
    at = rng.randrange(start, stop)
    data[at : at + size] = (rng.choice(ODD) % (1 << 8 * size)).to_bytes(size, "little")


def truncate(data: bytearray, tiff: TiffMap, rng: Random) -> None:
    """The file ends at the edge of something, or a byte before or behind it."""
    edges = [edge for ranges in regions(tiff).values() for pair in ranges for edge in pair]
    del data[max(0, rng.choice(edges) + rng.choice((-1, 0, 1))) :]


def zero_page(data: bytearray, _tiff: TiffMap, rng: Random) -> None:
    """A block of a disk was never written."""
    size = rng.choice((64, 512, 4096))
    at = rng.randrange(0, len(data), size)
    data[at : at + size] = bytes(len(data[at : at + size]))


def swap_offsets(data: bytearray, tiff: TiffMap, rng: Random) -> None:
    """Two segments change places, or come to lie in the same one."""
    entry = entry_of(tiff, rng, TABLES)
    if entry is not None and entry.count > 1:
        values = [int(value) for value in tiff.values(entry)]
        a, b = rng.randrange(entry.count), rng.randrange(entry.count)
        put(data, tiff, entry, a, values[b])
        if rng.random() < 0.5:
            put(data, tiff, entry, b, values[a])


def odd_range(data: bytearray, tiff: TiffMap, rng: Random) -> None:
    """An offset or a byte count is nothing, too much, or a little wrong."""
    entry = entry_of(tiff, rng, TABLES)
    if entry is not None and entry.count:
        number = rng.randrange(entry.count)
        now = int(tiff.values(entry)[number])
        size = len(data)
        near = (now - 1, now + 1, now // 2, now * 2, size, size - 1, size - now, size + 1)
        put(data, tiff, entry, number, rng.choice((0, 0, *near, *ODD)))


def odd_shape(data: bytearray, tiff: TiffMap, rng: Random) -> None:
    """Giant, empty or slightly different dimensions."""
    for _ in range(rng.choice((1, 1, 2, 3))):
        entry = entry_of(tiff, rng, SHAPES)
        if entry is not None and entry.count:
            now = int(tiff.values(entry)[0])
            put(data, tiff, entry, 0, rng.choice((now - 1, now + 1, 2 * now, now // 2, *ODD)))


def other_kind(data: bytearray, tiff: TiffMap, rng: Random) -> None:
    """Another compression, predictor, sample format, colour or order."""
    entry = entry_of(tiff, rng, KINDS)
    if entry is not None and entry.count:
        codes = (0, 1, 2, 3, 4, 5, 6, 7, 8, 32773, 32946, 34712, 34892, 34925, 34933, 50000, 50001)
        put(data, tiff, entry, rng.randrange(entry.count), rng.choice(codes))


def broken_entry(data: bytearray, tiff: TiffMap, rng: Random) -> None:
    """A tag that is gone, is there twice, or has another type or number of values."""
    ifd = rng.choice(tiff.chain())
    entry = rng.choice(list(ifd.entries.values()))
    other = rng.choice(list(ifd.entries))
    at, order = entry.at, tiff.order
    match rng.randrange(4):
        case 0:
            struct.pack_into(order + "H", data, at, rng.choice((65001, other)))
        case 1:
            struct.pack_into(order + "H", data, at + 2, rng.choice((*SIZES, 0, 14, 129, 65535)))
        case 2:
            near = (0, 1, entry.count - 1, entry.count + 1, entry.count * 2, *ODD)
            value = rng.choice(near) % (1 << 8 * tiff.width)
            struct.pack_into(order + tiff.offset, data, at + 4, value)
        case _:
            value = rng.choice((*ODD, len(data), len(data) - 1)) % (1 << 8 * tiff.width)
            struct.pack_into(order + tiff.offset, data, at + 4 + tiff.width, value)


def cycle(data: bytearray, tiff: TiffMap, rng: Random) -> None:
    """A directory that is followed by itself, by another, or by pixels; or is its own SubIFD."""
    chain = tiff.chain()
    ifd = rng.choice(chain)
    target = rng.choice([one.at for one in chain] + [8, rng.randrange(len(data)), len(data) + 100])
    subs = [one.entries[330] for one in chain if 330 in one.entries]
    if subs and rng.random() < 0.5:
        entry = rng.choice(subs)
        put(data, tiff, entry, rng.randrange(max(1, entry.count)), target)
    elif rng.random() < 0.5:
        # A tag that did not matter becomes one that names SubIFDs.
        entry = rng.choice(list(ifd.entries.values()))
        struct.pack_into(tiff.order + "HH", data, entry.at, 330, 4 if not tiff.big else 16)
        count = rng.choice((1, 1, 2, 1000))
        struct.pack_into(tiff.order + tiff.offset, data, entry.at + 4, count)
        struct.pack_into(tiff.order + tiff.offset, data, entry.at + 4 + tiff.width, target)
    else:
        struct.pack_into(tiff.order + tiff.offset, data, ifd.next_at, target)


def _bomb(rng: Random) -> bytes:
    entities = "".join(
        f'<!ENTITY x{n} "{f"&x{n - 1};" * 10 if n else "ha" * 10}">' for n in range(10)
    )
    head = '<?xml version="1.0" encoding="UTF-8"?>'
    ome = '<OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06">'
    pixels = (
        '<Image ID="Image:0"><Pixels ID="Pixels:0" DimensionOrder="XYZCT" Type="{kind}" '
        'SizeX="{x}" SizeY="{y}" SizeZ="{z}" SizeC="{c}" SizeT="1">'
        '<Channel ID="Channel:0:0" SamplesPerPixel="{s}"/><TiffData IFD="{first}" '
        'PlaneCount="{n}"/></Pixels></Image></OME>'
    )
    ints = [rng.choice((-1, 0, 1, 2, 3, 32, 40, 10**6, 10**9, 10**18)) for _ in range(7)]
    filled = pixels.format(
        kind=rng.choice(("uint8", "uint16", "float", "bit", "complex", "?")),
        **dict(zip("xyzcsn", ints, strict=False)), first=ints[6],
    )  # fmt: skip
    other = filled.replace(
        "<TiffData", '<TiffData><UUID FileName="/etc/passwd">u</UUID></TiffData><TiffData'
    )
    modulo = (
        head + ome + "<StructuredAnnotations><A ID='m' Namespace='/modulo'><Value><M><ModuloAlongT "
        "Start='0' End='{}' Step='1e-9'/></M></Value></A></StructuredAnnotations></OME>"
    )
    texts = (
        f"{head}<!DOCTYPE OME [{entities}]>{ome}&x9;</OME>",
        f'{head}<!DOCTYPE OME [<!ENTITY f SYSTEM "file:///etc/passwd">]>{ome}&f;</OME>',
        head + ome + "<a>" * 100_000,
        head + ome + "<a>" * 5000 + "</a>" * 5000 + "</OME>",
        head + ome + filled,
        head + ome + filled,
        head + ome + other,
        '{"shape": [' + ", ".join(str(n) for n in ints[: rng.randrange(1, 5)]) + "]}",
        '{"shape": [60, 70], "axes": "QQ"}',
        modulo.format(ints[0]),
        '{"shape": ' + "[" * 100_000,
        "shape=(1000000000,1000000000)",
        "ImageJ=1.11a\nimages=1000000000\nslices=1000000000\nhyperstack=true\n",
        f"ImageJ=1.11a\nimages={ints[0]}\nslices={ints[1]}\nframes={ints[2]}\n",
        "Aperio Image Library v1.0\n1x1|AppMag = " + "9" * 4000,
        "\0" * 100,
        "<?xml" + " " * 1_000_000 + "<OME></OME>",
    )
    return rng.choice(texts).encode() + b"\0"


def description(data: bytearray, tiff: TiffMap, rng: Random) -> None:
    """Another description: bombs, lies about the shape, names of other files."""
    entry = entry_of(tiff, rng, (270, 305, 282))
    if entry is None:
        return
    text = _bomb(rng)
    struct.pack_into(tiff.order + "HH", data, entry.at, 270, 2)
    struct.pack_into(tiff.order + tiff.offset, data, entry.at + 4, len(text))
    struct.pack_into(tiff.order + tiff.offset, data, entry.at + 4 + tiff.width, len(data))
    data += text


def damage_segment(data: bytearray, tiff: TiffMap, rng: Random) -> None:
    """A tile or strip that is zeros, half zeros, noise, or another's bytes."""
    ranges = regions(tiff).get("data", [])
    if not ranges:
        return
    start, stop = rng.choice(ranges)
    match rng.randrange(5):
        case 0:
            data[start:stop] = bytes(stop - start)
        case 1:
            data[(start + stop) // 2 : stop] = bytes(stop - (start + stop) // 2)
        case 2:
            data[start:stop] = rng.randbytes(stop - start)
        case 3:
            other = rng.choice(ranges)
            taken = bytes(data[other[0] : other[1]])[: stop - start]
            data[start : start + len(taken)] = taken
        case _:
            at = rng.randrange(start, stop)
            data[at] = rng.randrange(256)


def shift(data: bytearray, _tiff: TiffMap, rng: Random) -> None:
    """Bytes were put in, or left out."""
    at, size = rng.randrange(len(data)), rng.choice((1, 2, 16, 100))
    if rng.random() < 0.5:
        del data[at : at + size]
    else:
        data[at:at] = rng.randbytes(size)


MUTATIONS: tuple[Mutation, ...] = (
    flip_bits, flip_bits, flip_bits, odd_bytes, truncate, truncate, zero_page, swap_offsets,
    odd_range, odd_range, odd_shape, odd_shape, other_kind, broken_entry, broken_entry, cycle,
    description, damage_segment, damage_segment, shift,
)  # fmt: skip


def mutate_tiff(seed: bytes, rng: Random) -> tuple[str, bytes]:
    """What was done to a seed, and what became of it."""
    data, done = bytearray(seed), []
    for _ in range(1 if rng.random() < 0.85 else 2):
        mutation = rng.choice(MUTATIONS)
        done.append(mutation.__name__)
        try:
            mutation(data, TiffMap(bytes(data)), rng)
        except (ValueError, KeyError, IndexError, struct.error):
            continue  # The first mutation left nothing that this one could aim at.
    return "+".join(done), bytes(data)
