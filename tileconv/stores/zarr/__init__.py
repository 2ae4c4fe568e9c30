"""Zarr: v2 and v3 read chunk by chunk, v3 written shard by shard."""
