"""What tileconv promises by name, and the signatures of those who only change the import."""

import inspect

import pytest
from scipy import ndimage, signal

import tileconv

NAMES = {
    "Job",
    "TileconvError",
    "__version__",
    "convolve",
    "convolve2d",
    "correlate",
    "correlate2d",
    "open",
    "plan",
    "run",
    "save",
    "verify",
}


def test_the_public_names():
    assert set(tileconv.__all__) == set(dir(tileconv)) == NAMES
    for name in NAMES:
        assert getattr(tileconv, name) is not None
    with pytest.raises(AttributeError, match="utils"):
        _ = tileconv.utils


@pytest.mark.parametrize("name", sorted(NAMES - {"__version__"}))
def test_every_public_name_is_documented(name):
    assert len(inspect.getdoc(getattr(tileconv, name)).splitlines()) > 5


@pytest.mark.parametrize(
    ("name", "family"),
    [
        ("convolve2d", signal),
        ("correlate2d", signal),
        ("convolve", ndimage),
        ("correlate", ndimage),
    ],
)
def test_signatures_are_scipys_with_keywords_added(name, family):
    ours = inspect.signature(getattr(tileconv, name)).parameters
    theirs = inspect.signature(getattr(family, name)).parameters
    shared = [p for p in theirs.values() if p.kind is p.POSITIONAL_OR_KEYWORD]
    for wanted, got in zip(shared, ours.values(), strict=False):
        assert (wanted.name, wanted.default, wanted.kind) == (got.name, got.default, got.kind)
    for got in list(ours.values())[len(shared) :]:
        assert got.kind is got.KEYWORD_ONLY
        assert got.default is not got.empty
