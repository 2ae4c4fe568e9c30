"""Parts of `speed.py`. What the runner imports here is small: see `processes`."""
