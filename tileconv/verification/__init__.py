"""Outputs compared with what scipy makes of their inputs."""
