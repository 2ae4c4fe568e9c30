"""Where pixels come from: the protocol, and how a path finds its reader."""

from __future__ import annotations

from types import TracebackType
from typing import Protocol, Self

import numpy as np

from tileconv.core.grid import Region
from tileconv.core.raster import Raster
from tileconv.stores.absent import AbsentChunks


class Source(Protocol):
    """A raster that can be read by windows.

    Construction opens the file and checks it; it raises `InputError` for what cannot be
    read. `read` may be called from any number of threads at once. Pickling carries the
    path and the options, never the handle or pixels; the copy opens the file anew. `close`
    may be called twice; reading afterwards is an error.
    """

    @property
    def raster(self) -> Raster:
        """What the raster is."""

    @property
    def absent(self) -> AbsentChunks:
        """Chunks that the format allows to be missing and that were read as fill value."""

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
        InputError
            Naming file, page or array, chunk and byte range.
        """

    def close(self) -> None:
        """Release the file."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None: ...
