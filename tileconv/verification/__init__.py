"""Outputs compared with what their jobs should write, recomputed apart from the jobs."""
