"""One run of one job: what to do, the plan, the tiles, the commit."""
