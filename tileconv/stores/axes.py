"""Which axes of an array are y and x: what the file says, what the user says, or the usual."""

from __future__ import annotations

from collections.abc import Sequence

from tileconv.errors import ConfigError, InputError

Names = Sequence[str | None]


def raster_dims(
    shape: tuple[int, ...], *, dims: str | Sequence[str] | None = None, names: Names | None = None
) -> tuple[str, ...]:
    """A name for each axis of an array, ``"y"`` followed by ``"x"`` among them.

    `dims`, the user's word, is binding. `names`, the file's, hold where they contain y
    followed by x. Else the last two axes are y and x, unless the array looks like an
    interleaved image: three axes, the last of 3 or 4 and both others longer.

    Parameters
    ----------
    shape : tuple of int
    dims : str or sequence of str, optional
        One name for each axis; a string gives one letter to each: ``"yxs"``.
    names : sequence of (str or None), optional
        What the file calls its axes, in any case.

    Raises
    ------
    ConfigError
        `dims` does not fit the array.
    InputError
        The array has fewer than two axes.

    Examples
    --------
    >>> raster_dims((100, 200, 3))
    ('y', 'x', 's')
    >>> raster_dims((5, 100, 200), names=["Z", "Y", "X"])
    ('z', 'y', 'x')
    """
    if len(shape) < 2:
        raise InputError(
            f"an array of shape {shape} is no raster; it needs two axes or more, y and x"
        )
    if dims is not None:
        given = tuple(name.lower() for name in dims)
        if len(given) != len(shape) or not _has_yx(given):
            raise ConfigError(
                f"axes {','.join(given)!r} do not fit an array of shape {shape}; give one name "
                "for each axis, with one y followed by one x"
            )
        return given
    known = tuple(name.lower() if name else None for name in names or [None] * len(shape))
    if len(known) == len(shape) and _has_yx(known):
        return tuple(name or f"d{axis}" for axis, name in enumerate(known))
    interleaved = len(shape) == 3 and shape[2] in (3, 4) and min(shape[:2]) > shape[2]
    y = 0 if interleaved else len(shape) - 2
    if len(known) != len(shape):
        known = (None,) * len(shape)
    found = [
        name if name and name not in ("y", "x") else f"d{axis}" for axis, name in enumerate(known)
    ]
    found[y : y + 2] = "y", "x"
    if interleaved:
        found[2] = "s"
    return tuple(found)


def _has_yx(names: Names) -> bool:
    return (
        names.count("y") == 1 and names.count("x") == 1 and names.index("x") == names.index("y") + 1
    )
