"""Settings of all tests: properties are never judged by the clock, and repeat themselves in CI."""

import os

from hypothesis import settings

settings.register_profile("tileconv", deadline=None, derandomize=bool(os.environ.get("CI")))
settings.load_profile("tileconv")
