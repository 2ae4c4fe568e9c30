"""Reads a TOML file that nobody vouches for: small, flat, and a file."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

from tileconv.errors import ConfigError

MAX_BYTES = 1 << 20
"""Largest config that is read; parsing one takes some hundred times its bytes."""

_DEEP_KEY = re.compile(r"""(?<![\w-])(?>(?>[\w-]+|"[^"\n]*"|'[^'\n]*')[ \t]*\.[ \t]*){16}""")
"""A key of more parts than any job has: tomllib takes their square in time and memory."""


def read_toml(path: Path) -> dict[str, Any]:
    """The tables of a TOML file."""
    try:
        is_file, is_there = path.is_file(), path.exists()
        content = b""
        if is_file:
            with path.open("rb") as file:
                content = file.read(MAX_BYTES + 1)
    except (OSError, ValueError) as error:
        # A path with a zero byte is a ValueError.
        reason = getattr(error, "strerror", None) or error
        raise ConfigError(f"cannot read config {path}: {reason}; check the path") from None
    if not is_file:  # A pipe would wait for somebody to write into it.
        what = "is not a file" if is_there else "does not exist"
        raise ConfigError(f"config {path} {what}; check the path")
    if len(content) > MAX_BYTES:
        raise ConfigError(
            f"config {path} has more than {MAX_BYTES} bytes; put large weights into a kernel file"
        )
    try:
        # Some editors begin a file with a byte order mark.
        text = content.decode("utf-8-sig")
        deep = _DEEP_KEY.search(text)
        tables = {} if deep else tomllib.loads(text)
    except RecursionError:
        raise ConfigError(f"config {path} is nested deeper than any job is") from None
    except ValueError as error:  # Not UTF-8, not TOML, or an integer that is too long.
        raise ConfigError(f"config {path} is not TOML: {error}") from None
    if deep:
        raise ConfigError(f"config {path} has a key {deep[0]:.60}..., deeper than any of a job")
    return tables
