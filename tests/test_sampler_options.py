"""Options of samplers and grids: they agree with the library, and reach ``sample``."""

import inspect
import json
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from helpers import FEW, few_digits
from skpspc import PSPCDenoiser, sampling
from skpspc.cli._parameters import grids
from skpspc.sampling import SAMPLERS

SAMPLE = ["sample", "-n", 2, "--n-steps", 5, "--seed", 3, *FEW, "--out", "x.npz"]


def test_grids_offered_are_those_there_are(run):
    functions = {name for name in sampling.__all__ if name.endswith("_sigmas")}
    assert {grid.function for grid in grids().values()} == functions
    text = " ".join(run("sample", "--help").stdout.split())
    for name, grid in grids().items():
        arguments = set(inspect.signature(getattr(sampling, grid.function)).parameters)
        ends = {"sigma_min", "sigma_max"} if grid.has_ends else set()
        assert arguments == {"n_steps", *ends, *grid.parameters}
        assert f"'{name}'" in text
    assert "see the user guide" not in text  # words for every sampler and grid


@pytest.mark.parametrize(
    ("options", "sampler", "sigmas"),
    [
        (["--sampler", "ddim", "--eta", 0.5], partial(sampling.ddim, eta=0.5), None),
        (["--sampler", "edm", "--s-churn", 5], partial(sampling.edm, s_churn=5.0), None),
        (["--rho", 5], "dpmpp_2m", sampling.edm_sigmas(5, rho=5)),
        (["--grid", "vp", "--schedule", "cosine"], "dpmpp_2m", sampling.vp_sigmas(5, "cosine")),
        (
            ["--grid", "flow", "--shift", 3, "--sigma-max", 20, "--sampler", "heun"],
            "heun",
            sampling.flow_sigmas(5, sigma_max=20, shift=3),
        ),
        (
            ["--grid", "exponential", "--sigma-min", 0.01],
            "dpmpp_2m",
            sampling.exponential_sigmas(5, sigma_min=0.01),
        ),
    ],
)
def test_values_reach_sample(run, options, sampler, sigmas):
    run(*SAMPLE, *options)
    sigmas = sampling.edm_sigmas(5) if sigmas is None else sigmas
    model = PSPCDenoiser().fit(few_digits())
    with np.load("x.npz") as saved:
        expected = model.sample(2, random_state=3, sampler=sampler, sigmas=sigmas)
        np.testing.assert_array_equal(saved["samples"], expected)
        assert (saved["sigma_max"], saved["sigma_min"]) == (sigmas[0], sigmas[-1])
        keywords = sampler.keywords if isinstance(sampler, partial) else {}
        assert json.loads(str(saved["sampler_parameters"])) == keywords


@pytest.mark.parametrize("name", SAMPLERS)
def test_a_pipe_and_a_file_have_equal_samples(run, name):
    run(*SAMPLE, "--sampler", name)
    piped = run(*SAMPLE[:-1], "-", "--format", "npz", "--sampler", name)
    assert piped.stdout_bytes == Path("x.npz").read_bytes()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--eta", "1"], "--eta is for the sampler ddim; leave it out for the sampler dpmpp_2m"),
        (["--sampler", "ddim", "--eta", "2"], "eta must be between 0 (no added noise) and 1"),
        (["--sampler", "edm", "--s-churn", "-1"], "s_churn must be non-negative and finite"),
        (
            ["--sampler", "edm", "--s-churn", "x"],
            "value for '--s-churn': it must be a number",
        ),
        (["--grid", "magic"], "'magic' is not one of edm, exponential, vp, flow"),
        (["--grid", "vp", "--rho", "5"], "--rho is for the grid edm; leave it out for the grid vp"),
        (["--grid", "vp", "--sigma-max", "9"], "the grid vp has fixed noise levels; leave out"),
        (["--grid", "vp", "--schedule", "x"], "it must be 'linear' or 'cosine', got 'x'"),
        (["--grid", "vp", "--n-steps", "1001"], "n_steps must be an int from 1 to 1000"),
        (["--rho", "-1"], "rho must be positive, got -1.0"),
        (["--grid", "flow", "--shift", "0"], "shift must be positive and finite, got 0.0"),
    ],
)
def test_bad_values_get_a_sentence_before_the_work(run, monkeypatch, options, message):
    monkeypatch.setattr("skpspc.cli._work.load", lambda *_, **__: pytest.fail("work was done"))
    result = run(*SAMPLE, *options, status=2)
    assert message in " ".join(result.stderr.split())
    assert not Path("x.npz").exists()
