"""TIFF: windows read from any layout, tiled BigTIFF written in parts."""
