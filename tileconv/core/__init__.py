"""The pure core: arrays and integers, no input or output.

Nothing here imports dask, zarr or tifffile, nor anything else of tileconv
but :mod:`tileconv.errors`.
"""
