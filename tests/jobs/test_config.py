"""Jobs as users write them: what is understood, and what each mistake is answered."""

import numpy as np
import pytest

from tileconv.core.boundary import Boundary
from tileconv.errors import ConfigError
from tileconv.jobs.config import Job

GOOD = {
    "input": {"path": "a.tif"},
    "kernel": {"name": "gaussian", "sigma": 2},
    "output": {"path": "b.tif"},
}


def test_a_job_gives_its_operation():
    job = Job.of(GOOD | {"convolution": {"boundary": "fill", "fill_value": 3, "mode": "full"}})
    operation = job.make_operation()
    assert operation.kernel.shape == (17, 17)
    assert operation.boundary is Boundary.FILL
    assert operation.fill_value == 3
    assert operation.output_shape((10, 10)) == (26, 26)


def test_a_convolution_flips_and_a_correlation_does_not():
    weights = [[1, 2, 3], [4, 5, 6]]
    for operation, want in (("convolve", [6, 5, 4]), ("correlate", [1, 2, 3])):
        job = Job.of(
            GOOD | {"kernel": {"weights": weights}, "convolution": {"operation": operation}}
        )
        assert list(job.make_operation().kernel.weights[0]) == want


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"input": {}}, "input.path or input.sample"),
        ({"inpt": {}}, "unknown key inpt; a job takes input"),
        ({"kernel": {"name": "gaussian", "sgma": 1}}, "unknown key kernel.sgma; kernel takes"),
        ({"kernel": {"name": "gaussian", "sigma": "x"}}, "kernel.sigma: Expected `float"),
        ({"kernel": {}}, "give one of kernel.name"),
        ({"kernel": {"file": "a.npy", "sigma": 1}}, "kernel.sigma belongs to kernel.name"),
        ({"kernel": {"weights": [[1, "a"]]}}, r"kernel.weights\[0\]\[1\]"),
        ({"output": {"path": "b.tif", "dtype": "foo"}}, "output.dtype 'foo'"),
        ({"output": {}}, "output.path is missing"),
        ({"run": {"workers": 0}}, "run.workers: Expected `int` >= 1"),
        ({"run": {"memory": "lots"}}, "run.memory 'lots'"),
        ({"convolution": {"boundary": "reflect"}}, "ambiguous"),
        ({"convolution": {"mode": "sam"}}, "convolution.mode: 'sam' is not one of 'full'"),
        ({"convolution": {"origin": [1]}}, "convolution.origin"),
        ({"input": {"path": "a", "shape": "3x3"}}, "input.shape belongs to input.sample"),
        ({"input": {"path": "a", "seed": 1}}, "input.seed belongs to input.sample"),
        ({"input": {"sample": "slide", "shape": "3x3", "level": 1}}, "belongs to input.path"),
        ({"input": {"path": ""}}, "is no path"),
        ({"output": {"path": "a\0b.tif"}}, "is no path"),
        ({"input": {"sample": "slide"}}, "needs input.shape"),
        ({"input": {"sample": "rings", "shape": "3x3"}}, "'zoneplate'"),
        ({"folder": "/"}, "unknown key folder"),
    ],
)
def test_mistakes_are_named_with_what_is_allowed(change, message):
    with pytest.raises(ConfigError, match=message):
        Job.of(GOOD | change)


@pytest.mark.parametrize(
    ("weights", "message"), [([], "empty"), ([[]], "empty"), ([[1], [1, 2]], "make them equal")]
)
def test_weights_that_are_no_kernel(weights, message):
    with pytest.raises(ConfigError, match=message):
        Job.of(GOOD | {"kernel": {"weights": weights}}).make_operation()


def test_weights_must_be_finite(tmp_path):
    config = tmp_path / "job.toml"
    config.write_text(
        '[input]\npath = "a.tif"\n[kernel]\nweights = [[nan]]\n[output]\npath = "b.tif"\n'
    )
    with pytest.raises(ConfigError, match="finite"):
        Job.load(config).make_operation()


def test_a_config_names_itself_in_errors_and_its_folder_in_paths(tmp_path):
    config = tmp_path / "job.toml"
    config.write_text(
        '[input]\npath = "a.tif"\n[kernel]\nname = "box"\n[output]\npath = "o/b.tif"\n'
    )
    assert Job.load(config).output_path == tmp_path / "o" / "b.tif"
    config.write_text("[input\n")
    with pytest.raises(ConfigError, match="job.toml is not TOML"):
        Job.load(config)
    config.write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError, match="is not TOML"):
        Job.load(config)
    with pytest.raises(ConfigError, match="cannot read config"):
        Job.load(tmp_path / "none.toml")


def test_output_dtype_follows_the_input_when_asked():
    job = Job.of(GOOD | {"output": {"path": "b.tif", "dtype": "input"}})
    assert job.output_dtype(np.dtype("int16")) == np.int16
    assert Job.of(GOOD).output_dtype(np.dtype("int16")) is None
