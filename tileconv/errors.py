"""The exceptions tileconv raises, and the exit code each stands for.

::

    TileconvError                    1   a bug in tileconv, where nothing below fits
    ├── ConfigError (ValueError)     2   usage or configuration
    │   └── MethodError              2   a forced method cannot serve this kernel or dtype
    ├── InputError                   3   the input is bad or cannot be trusted
    │   └── BadChunkError            3   a chunk of it is, which may be restored
    ├── OutputExistsError            4   the output is in the way
    ├── LockedError                  5   another run holds the output
    ├── StorageError                 6   storage failed
    ├── MemoryCapError               7   the memory cap cannot be kept
    ├── ClusterError                 8   the cluster failed
    └── VerificationError            9   an output is not what its job gives

A message says what happened, where, and what to do next, with the offending
value and the limit it broke; it is one line, because the command line prints
it as one.
"""

from __future__ import annotations

from typing import Self


def one_line(error: object) -> str:
    """An error's text without line breaks, at most 200 characters; its type if it has no text."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 200 else f"{text[:200]}..."


class TileconvError(Exception):
    """Root of every error tileconv raises on purpose.

    Its message is one line: what happened, where, what to do next.

    Attributes
    ----------
    exit_code : int
        What the command line leaves with; see the table of this module.
    """

    exit_code = 1

    def at(self, place: str) -> Self:
        """The same error, that names `place` too, before what to do next."""
        told = str(self)
        if place in told:
            return self
        what, mark, action = told.rpartition("; ")
        located = type(self)(f"{what}; {place}{mark}{action}" if mark else f"{told}; {place}")
        located.__cause__ = self.__cause__
        return located


class ConfigError(TileconvError, ValueError):
    """What the user asked for is not something tileconv can do."""

    exit_code = 2


class MethodError(ConfigError):
    """A method was forced that cannot serve this kernel or these dtypes."""


class InputError(TileconvError):
    """A raster cannot be read: missing, unreadable, corrupt or absurd."""

    exit_code = 3


class BadChunkError(InputError):
    """A chunk of a raster is corrupt or lacking; the rest of the raster can be read.

    A run that met it can go on where it stopped, once the chunk is restored.
    """


class OutputExistsError(TileconvError):
    """The output's name is taken and overwriting was not asked for."""

    exit_code = 4


class LockedError(TileconvError):
    """Another run is writing the same output."""

    exit_code = 5


class StorageError(TileconvError):
    """Writing failed: disk full, permission denied, input/output error."""

    exit_code = 6


class MemoryCapError(TileconvError):
    """No plan keeps the memory cap; the message names the smallest that works."""

    exit_code = 7


class ClusterError(TileconvError):
    """The cluster cannot do the work: nobody there, unfit, or lost on the way."""

    exit_code = 8


class VerificationError(TileconvError):
    """An output is not what its job gives.

    Parameters
    ----------
    message : str
    verification : object or None
        What was found, a `tileconv.verification.result.Verification`; None where nothing could be
        compared: another shape or dtype, or an output that cannot be read.
    """

    exit_code = 9

    def __init__(self, message: str, verification: object = None) -> None:
        super().__init__(message)
        self.verification = verification
