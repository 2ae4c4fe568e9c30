"""Where pixels come from: what every source offers."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np

from tileconv.core.grid import Region
from tileconv.core.raster import Raster
from tileconv.stores.absent import AbsentChunks, BadChunks
from tileconv.stores.chunk_cache import ChunkCache
from tileconv.stores.disk import identity
from tileconv.stores.tiff.tags import TiffTags


class Source(ABC):
    """A raster that can be read by windows.

    Construction opens the file and checks it; it raises `InputError` for what cannot be
    read. `read` may be called from any number of threads at once. Pickling carries the
    absolute path and the options, never the handle or pixels; the copy opens the file anew,
    in a process that may have another working folder. `close`
    may be called twice; reading afterwards is an error.
    """

    @property
    @abstractmethod
    def raster(self) -> Raster:
        """Description of the raster."""

    @abstractmethod
    def read(self, plane: int, region: Region, out: np.ndarray) -> None:
        """Fill `out` with the pixels of `region`, which lies inside the raster.

        Parameters
        ----------
        plane : int
            Number of the plane, see `Raster`.
        region : Region
        out : ndarray, shape region.shape + (samples,)
            Any strides and any dtype that the pixels can be cast to by assignment.

        Raises
        ------
        BadChunkError
            A chunk cannot be read or decoded, or is absent, and was not to be filled; it names
            file, page or array, chunk and byte range.
        InputError
            Anything else about the file.
        """

    @property
    def path(self) -> Path | None:
        """The file or folder it reads; None for pixels in memory."""
        return None

    @property
    def identity(self) -> str:
        """Tells this raster from any other, and from what it was before it was changed.

        Two runs with the same identity may go on with one another's work. Pixels in memory
        are never those of another run.
        """
        return f"in memory, {os.urandom(8).hex()}" if self.path is None else identity(self.path)

    @property
    def state(self) -> str:
        """What of `identity` other machines see too: all but where it lies."""
        return self.identity.removeprefix(f"{self.path.resolve()}, " if self.path else "")

    @property
    def tags(self) -> TiffTags | None:
        """What an output TIFF should carry over; None where nothing is known."""
        return None

    @property
    def cache(self) -> ChunkCache | None:
        """What decoded chunks go through; its capacity may be changed. None without chunks."""
        return None

    @property
    def absent(self) -> AbsentChunks:
        """Chunks that the format allows to be missing and that were read as fill value."""
        return AbsentChunks(0)

    @property
    def bad(self) -> BadChunks:
        """Chunks that cannot be read and were filled as absent ones are, where that was asked."""
        return BadChunks(0)

    def require_chunks(self) -> None:
        """Refuse a raster that has pixels, none of which was ever stored.

        Raises
        ------
        InputError
            Every chunk is absent.
        """

    def close(self) -> None:
        """Release the file."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()
