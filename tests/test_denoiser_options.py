"""Options of the denoisers: they agree with the estimators, and reach them."""

import inspect
import json
import numbers
import re

import numpy as np
import pytest
from click.testing import CliRunner
from sklearn.utils._param_validation import Interval, StrOptions

import skpspc
from helpers import FEW, few_digits
from skpspc import (
    AutoDenoiser,
    BlendedDenoiser,
    EmpiricalDenoiser,
    GaussianDenoiser,
    LocalScoreDenoiser,
    PatchDenoiser,
    PCALocalityDenoiser,
    PosteriorMeanCollection,
    PSPCDenoiser,
    SingleImageDenoiser,
    SmoothedDenoiser,
)
from skpspc.cli._commands import commands
from skpspc.cli._parameters import _NO_OPTION, all_denoisers, denoisers, option_name

CLASSES = {
    "auto": AutoDenoiser,
    "blended": BlendedDenoiser,
    "collection": PosteriorMeanCollection,
    "empirical": EmpiricalDenoiser,
    "gaussian": GaussianDenoiser,
    "local-score": LocalScoreDenoiser,
    "patch": PatchDenoiser,
    "pca-locality": PCALocalityDenoiser,
    "pspc": PSPCDenoiser,
    "single-image": SingleImageDenoiser,
    "smoothed": SmoothedDenoiser,
}


def spoken(result):
    """What a command wrote to stderr, on one line."""
    return " ".join(result.stderr.split())


# What the source says, and what the estimators say


def test_every_denoiser_is_offered():
    public = {name for name in skpspc.__all__ if re.search("Denoiser$|Collection$", name)}
    assert {each.class_name for each in all_denoisers().values()} == public
    assert {name: getattr(skpspc, each.class_name) for name, each in denoisers().items()} == CLASSES
    assert all_denoisers()["network"].missing == "network"


def kinds_of(constraints):
    """Kinds and words of `Parameter`, from the constraints by which scikit-learn validates."""
    kinds, words = set(), set()
    for each in constraints:
        if isinstance(each, Interval):
            kinds.add("int" if each.type is numbers.Integral else "float")
        elif isinstance(each, StrOptions):
            words |= each.options
        elif each == "boolean":
            kinds.add("bool")
        elif each is str:
            kinds.add("str")
        elif each is tuple:  # of ints
            kinds.add("ints")
    return kinds, words


@pytest.mark.parametrize("name", CLASSES)
def test_options_agree_with_the_estimator(name):
    parameters = denoisers()[name].parameters
    signature = inspect.signature(CLASSES[name]).parameters
    assert denoisers()[name].arguments == set(signature)
    for argument, constraints in CLASSES[name]._parameter_constraints.items():
        if argument in (*_NO_OPTION, denoisers()[name].inner):
            assert argument not in parameters
            continue
        kinds, words = kinds_of(constraints)
        has_option = bool(kinds) or len(words) > 1
        assert (argument in parameters) == has_option, argument
        if has_option:
            parameter = parameters[argument]
            assert set(parameter.words) == words
            assert parameter.kinds - {"schedule"} == kinds
            assert parameter.default == signature[argument].default


@pytest.mark.parametrize("name", CLASSES)
def test_the_help_describes_the_options_of_one_denoiser(run, name):
    text = run("denoise", "--denoiser", CLASSES[name].__name__, "--help").stdout
    own = text.partition(f"Options of the denoiser {name}:")[2]
    shown = set(re.findall(r"^  (--[a-z-]+)", own, re.M))
    assert shown == {option_name(each) for each in denoisers()[name].parameters}
    for parameter in denoisers()[name].parameters.values():
        assert len(parameter.text) > 15
        assert not re.search(r"[`\\]|:\w+:", parameter.text), parameter.text
        for word in parameter.words:
            assert word in own


# Values that reach the estimator


@pytest.mark.parametrize(
    ("options", "model"),
    [
        (["--patch-size", 5, "--bandwidth", 0.3], PSPCDenoiser(5, bandwidth=0.3)),
        (
            ["--response-taper", 0.5, "--max-shift", 1],
            PSPCDenoiser(response_taper=0.5, max_shift=1),
        ),
        (
            ["--flip", "--smoothing", "global", "--bandwidth", 0.2, "--engine", "torch"],
            PSPCDenoiser(flip=True, smoothing="global", bandwidth=0.2, engine="torch"),
        ),
        (
            ["--denoiser", "empirical", "--n-neighbors", 7, "--index", "Flat"],
            EmpiricalDenoiser(n_neighbors=7),
        ),
        (["--denoiser", "EmpiricalDenoiser", "--tol", "1e-3"], EmpiricalDenoiser(tol=1e-3)),
        (["--denoiser", "gaussian", "--rank", 9], GaussianDenoiser(9)),
        (["--denoiser", "gaussian", "--shrinkage", "oas"], GaussianDenoiser(shrinkage="oas")),
        (["--denoiser", "gaussian", "--shrinkage", 0.25], GaussianDenoiser(shrinkage=0.25)),
        (
            ["--denoiser", "local-score", "--equivariant", "--boundary", "circular"],
            LocalScoreDenoiser(equivariant=True, boundary="circular"),
        ),
        (
            ["--denoiser", "Local_Score", "--patch-size", 5],
            LocalScoreDenoiser(5),
        ),
        (
            ["--denoiser", "pca-locality", "--threshold", 0.1],
            PCALocalityDenoiser(0.1),
        ),
        (
            ["--denoiser", "patch", "--patch-size", 3, "--location", "0,2"],
            PatchDenoiser(3, location=(0, 2)),
        ),
        (
            ["--denoiser", "patch", "--patch-size", 7, "--location", "all"],
            PatchDenoiser(7, location="all"),
        ),
        (
            ["--denoiser", "collection", "--source", "flips"],
            PosteriorMeanCollection(source="flips"),
        ),
        (
            ["--denoiser", "smoothed", "--inner", "pspc", "--patch-size", 3, "--tau", 0.2],
            SmoothedDenoiser(PSPCDenoiser(3), 0.2),
        ),
        (
            [
                "--denoiser",
                "blended",
                "--inner",
                "pspc",
                "--inner",
                "gaussian",
                "--rank",
                "9",
                "--n-images",
                "20",
            ],
            BlendedDenoiser([("a", PSPCDenoiser()), ("b", GaussianDenoiser(9))], n_images=20),
        ),
    ],
)
def test_values_reach_the_estimator(run, options, model):
    run("denoise", "--sigma", 0.4, "-n", 2, *options, "--out", "x.npz", *FEW)
    with np.load("x.npz", allow_pickle=False) as saved:
        others = np.delete(few_digits(), saved["held_out"], axis=0)
        expected = model.fit(others).denoise(saved["noisy"], 0.4)
        np.testing.assert_array_equal(saved["denoised"], expected)
        assert saved["denoiser"] == type(model).__name__


def test_the_output_records_the_values(run):
    options = ["--denoiser", "smoothed", "--inner", "pspc", "--patch-size", 3, "--tau", 0.2]
    run("denoise", "--sigma", 0.4, "-n", 2, *options, "--out", "x.npz", *FEW)
    with np.load("x.npz", allow_pickle=False) as saved:
        recorded = json.loads(str(saved["parameters"]))
    assert recorded == {"inner": {"PSPCDenoiser": {"patch_size": 3}}, "tau": 0.2}


def test_samples_of_several_patches(run):
    options = ["--denoiser", "patch", "--patch-size", 7, "--location", "all", "-n", 2]
    result = run("sample", *options, "--n-steps", 3, "--out", "x.npy", *FEW)
    samples = np.load("x.npy")
    assert samples.shape == (2, 4, 1, 7, 7)
    train = few_digits() / 127.5 - 1
    corners = [(0, 0), (0, 1), (1, 0), (1, 1)]
    patches = np.stack([train[:, :, i : i + 7, j : j + 7] for i, j in corners], 1)
    squares = np.square(samples[:, None] - patches).mean((2, 3, 4, 5)).min(1)
    assert f"training patch: {np.sqrt(squares).mean():.4f} on average" in result.stdout


# Refusals


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--denoiser", "magic"], "'magic' is not one of auto, blended, collection, empirical"),
        (["--denoiser", "network"], "NetworkDenoiser needs the parameter network, which no option"),
        (
            ["--index", "Flat"],
            "--index is for the denoisers empirical and patch; leave it",
        ),
        (
            ["--bandwidth", "2"],
            "must be a number of at least 0 and at most 1 or 'calibrated', got 2",
        ),
        (["--bandwidth", "wide"], "for the denoiser pspc it must be a number or 'calibrated', got"),
        (["--bandwidth", "-1"], "of at least 0 and at most 1 or 'calibrated', got -1"),
        (["--smoothing", "0"], "it must be 'window', 'global' or 'stationary', got '0'"),
        (
            ["--denoiser", "patch", "--location", "1,2,3"],
            "location",
        ),
        (["--denoiser", "empirical", "--index", ""], "it must be a text, got ''"),
        (["--denoiser", "local-score", "--patch-size", "4", *FEW], "patch_size must be odd"),
        (["--inner", "pspc"], "--inner is for the denoisers blended and smoothed; leave it out"),
        (["--denoiser", "smoothed"], "smoothed needs a denoiser inside; add --inner NAME"),
        (
            ["--denoiser", "smoothed", "--inner", "pspc", "--inner", "patch"],
            "smoothed takes one --inner, got pspc and patch",
        ),
        (
            ["--denoiser", "blended", "--inner", "pspc", "--inner", "pspc"],
            "every --inner must be another denoiser, got pspc and pspc",
        ),
        (
            ["--denoiser", "smoothed", "--inner", "smoothed"],
            "--inner must not be blended or smoothed; make these in Python",
        ),
        (
            ["--denoiser", "patch", "--location", "all", *FEW],
            "a picture shows images of shape (n, 1 or 3, H, W), got (1, 1, 1, 8, 8)",
        ),
    ],
)
def test_bad_values_get_a_sentence(run, options, message):
    result = run("denoise", "--sigma", 0.4, *options, "--out", "x.png", status=2)
    assert message in spoken(result)
    assert result.stdout == ""


def test_ranges_are_checked_before_the_data_are_read(run, monkeypatch):
    from skpspc.cli import _work

    monkeypatch.setattr(_work, "load", lambda *_, **__: pytest.fail("work was done"))
    run("sample", "--bandwidth", 2, "--out", "x.png", status=2)
    run("sample", "--sigma-min", 3, "--sigma-max", 2, "--out", "x.png", status=2)
    run("sample", "--guidance", 2, "--out", "x.png", status=2)


# The environment


@pytest.mark.parametrize("command", ["sample", "denoise", "attribute", "calibrate"])
def test_each_option_has_a_variable_of_its_name(command):
    context = commands.commands[command].make_context(command, ["--help"], resilient_parsing=True)
    for option in commands.commands[command].get_params(context):
        if "--help" not in option.opts:
            names = [name.lstrip("-").replace("-", "_") for name in option.opts]
            assert option.name in names


def test_variables_set_options(run, monkeypatch):
    monkeypatch.setenv("SKPSPC_SAMPLE_PATCH_SIZE", "3")
    monkeypatch.setenv("SKPSPC_SAMPLE_FLIP", "1")
    monkeypatch.setenv("SKPSPC_SAMPLE_MAX_IMAGES", "60")
    monkeypatch.setenv("SKPSPC_SAMPLE_SEED", "7")
    run("sample", "-n", 2, "--n-steps", 3, "--seed", 4, "--out", "x.npy")
    model = PSPCDenoiser(3, flip=True).fit(few_digits())
    expected = model.sample(2, random_state=4, n_steps=3)  # the command line comes first
    np.testing.assert_array_equal(np.load("x.npy"), expected)


@pytest.mark.parametrize(
    ("variable", "value", "message"),
    [
        ("SEED", "abc", "Invalid value for '--seed': 'abc' is not a valid"),
        ("DENOISER", "magic", "Invalid value for '--denoiser': 'magic' is not one of"),
        ("BANDWIDTH", "2", "Invalid value for '--bandwidth': for the denoiser pspc it must be"),
        ("INDEX", "Flat", "--index (set by SKPSPC_SAMPLE_INDEX) is for the denoisers empirical"),
    ],
)
def test_a_bad_value_of_a_variable_is_named(run, monkeypatch, variable, value, message):
    monkeypatch.setenv(f"SKPSPC_SAMPLE_{variable}", value)
    told = spoken(run("sample", "--out", "x.png", status=2))
    assert message in told
    assert f"(set by SKPSPC_SAMPLE_{variable})" in told


# Shell completion


@pytest.mark.parametrize(
    ("words", "completions"),
    [
        ("skpspc at", {"attribute"}),
        ("skpspc sample --pat", {"--patch-size"}),
        ("skpspc sample --denoiser p", {"patch", "pca-locality", "pspc"}),
        ("skpspc sample --denoiser gaussian --shrinkage o", {"oas"}),
        ("skpspc sample --sampler eu", {"euler"}),
        ("skpspc denoise --z ", {""}),  # the shell completes names of files
    ],
)
def test_completion(words, completions):
    variables = {
        "_SKPSPC_COMPLETE": "bash_complete",
        "COMP_WORDS": words,
        "COMP_CWORD": str(words.count(" ")),
    }
    result = CliRunner().invoke(commands, env=variables, prog_name="skpspc")
    assert {line.partition(",")[2] for line in result.stdout.splitlines()} == completions
