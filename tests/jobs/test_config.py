"""Jobs as users write them: what is understood, and what each mistake is answered."""

import os

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
    with pytest.raises(ConfigError, match=r"none\.toml does not exist"):
        Job.load(tmp_path / "none.toml")


START = b'[input]\npath = "a.tif"\n[kernel]\nname = "box"\n[output]\npath = "b.tif"\n[run]\n'

NO_CONFIGS = {
    "empty": (b"", "the table"),
    "bytes": (bytes(range(256)), "is not TOML"),
    "UTF-16": (START.decode().encode("utf-16"), "is not TOML"),
    "long integer": (START + b"workers = " + b"9" * 900_000, "is not TOML"),
    "deep arrays": (b"a = " + b"[" * 10_000, "nested deeper"),
    "deep tables": (b"a = " + b"{b = " * 10_000, "nested deeper"),
    # Parts that are as many as these take tomllib the square in time and memory.
    "deep key": (b"a" + b".b" * 50_000 + b" = 1", "has a key a.b.b"),
    "deep quoted key": (b'["a"' + b" . 'b c'" * 50_000 + b"]", "has a key"),
    "large": (START + b"# x\n" * 300_000, "more than 1048576 bytes"),
}


@pytest.mark.parametrize("name", NO_CONFIGS)
def test_a_file_that_is_no_config(tmp_path, name):
    content, message = NO_CONFIGS[name]
    (tmp_path / "job.toml").write_bytes(content)
    with pytest.raises(ConfigError, match=message) as caught:
        Job.load(tmp_path / "job.toml")
    assert "job.toml" in str(caught.value)


def test_weights_and_paths_full_of_dots_are_no_deep_keys(tmp_path):
    path = "../" * 20 + "a.1.2.3.4.5.6.7.8.tif"
    weights = [[0.5, 0.25, 1.0] * 20] * 3
    (tmp_path / "job.toml").write_text(
        f'[input]\npath = "{path}"\n[kernel]\nweights = {weights}\n[output]\npath = "b.tif"\n'
    )
    job = Job.load(tmp_path / "job.toml")
    assert (job.input.path, job.kernel.weights) == (path, weights)


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir, lambda path: path.symlink_to("/dev/zero")])
def test_a_config_that_is_no_file_is_not_read(tmp_path, make):
    make(tmp_path / "job.toml")
    with pytest.raises(ConfigError, match="is not a file"):
        Job.load(tmp_path / "job.toml")


@pytest.mark.parametrize("name", ["a\0.toml", "x" * 300, "loop.toml"])
def test_a_config_that_has_no_proper_name(tmp_path, name):
    (tmp_path / "loop.toml").symlink_to("loop.toml")
    with pytest.raises(ConfigError, match="config"):
        Job.load(tmp_path / name)


def test_output_dtype_follows_the_input_when_asked():
    job = Job.of(GOOD | {"output": {"path": "b.tif", "dtype": "input"}})
    assert job.output_dtype(np.dtype("int16")) == np.int16
    assert Job.of(GOOD).output_dtype(np.dtype("int16")) is None
