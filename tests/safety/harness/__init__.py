"""What the suites of kills and faults share: a disk that is watched, jobs, and their driver."""
