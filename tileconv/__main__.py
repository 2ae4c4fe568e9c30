"""The command ``tileconv``, and ``python -m tileconv``."""

from __future__ import annotations

from typing import NoReturn

from tileconv import stopping


def main() -> NoReturn:
    """Listen for signals before anything else is imported, then run the command line."""
    stopping.listen()
    from tileconv import cli

    cli.main()


if __name__ == "__main__":
    main()
