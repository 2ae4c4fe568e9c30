"""What is compiled: its modules are imported only where it is; see `tileconv.core.compiling`.

Here is what compiled code and its callers have to agree on.
"""

from __future__ import annotations

from tileconv.core.processor import this_processor

RADICES = (8, 5, 4, 3, 2)
"""Points of a step of a transform; larger ones go through memory less often."""


def vectors_in_block() -> int:
    """Vectors of outputs in a row of a block that `registers` sums.

    With 4 of them, 16 sums, 4 vectors of pixels and a weight need 21 registers.
    """
    return 4 if this_processor().registers == 32 else 2
