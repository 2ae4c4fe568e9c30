"""Pixels in and out of files: sources, sinks, and the cache of decoded chunks between."""
