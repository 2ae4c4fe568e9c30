"""``python -m tileconv`` is the command ``tileconv``."""

from tileconv.cli import main

main()
