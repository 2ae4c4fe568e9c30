"""tileconv convolves rasters that do not fit in memory, exactly as scipy would."""

__version__ = "0.1.0"
