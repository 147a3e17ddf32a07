"""Answers are finite and right at any magnitude, or an error states the range."""

import warnings

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from sklearn.base import clone

from skpspc import (
    EmpiricalDenoiser,
    GaussianDenoiser,
    LocalScoreDenoiser,
    NetworkDenoiser,
    PatchDenoiser,
    PosteriorMeanCollection,
    PSPCDenoiser,
    SmoothedDenoiser,
)
from skpspc.sampling import edm_sigmas
from test_common import DENOISERS, SHAPE, learns

# Denoisers without noise levels of their own, in the units of the images.
EQUIVARIANT = {
    **{
        name: DENOISERS[name]
        for name in (
            "empirical",
            "gaussian",
            "gaussian-rank",
            "gaussian-shrunk",
            "pca",
            "pca-batchwise",
            "patch",
            "patch-corner",
            "patch-all",
            "pspc-2",
            "empirical-bandwidth",
            "pspc-bandwidth-flip",
            "pspc-calibrated",
            "local",
        )
    },
    "gaussian-estimated": GaussianDenoiser(shrinkage="ledoit_wolf"),
    "tolerant": EmpiricalDenoiser(tol=1e-9),
    "squares-torch": PSPCDenoiser(3, engine="torch", flip=True),
    "global": PSPCDenoiser(3, bandwidth=0.6, smoothing="global"),
    "patch-bandwidth": PatchDenoiser(3, bandwidth=0.4, location="all"),
    "circular": LocalScoreDenoiser(3, equivariant=True, boundary="circular"),
    "zero": LocalScoreDenoiser(3, equivariant=True),
    "broken": LocalScoreDenoiser(3, equivariant=True, boundary="broken"),
    "collection": PosteriorMeanCollection(np.eye(40).reshape(40, *SHAPE) + 0.1),
}
LIMITS = {np.float32: (1e-16, 1e16), np.float64: (1e-60, 1e60)}
RNG = np.random.default_rng(1)
X = RNG.uniform(-1, 1, (12, *SHAPE))
Z = X[:2] + 0.4 * RNG.standard_normal((2, *SHAPE))
Y = np.arange(12) % 2
STATED = ("1e-16", "1e-60", "1e+16", "1e+60", "1e+14", "1e+58")  # ends of the ranges


def answer_or_refusal(call):
    """A finite answer, or None where a ValueError states the range."""
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        try:
            answer = np.asarray(call())
        except ValueError as error:
            assert any(end in str(error) for end in STATED), error
            return None
    assert np.isfinite(answer).all()
    return answer


def exponents(low=-330, high=308):
    return st.integers(low, high) | st.sampled_from([0, 0, -30, 30])


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("name", EQUIVARIANT)
@pytest.mark.parametrize("end", ["low", "middle", "high"])
def test_scale_equivariance(name, dtype, end):
    """Images and noise levels times a power of two give the answer times it."""
    low, high = LIMITS[dtype]
    power = {"low": np.log2(low) + 12, "middle": -7, "high": np.log2(high) - 12}[end]
    factor = 2.0 ** int(power)
    x, z = X.astype(dtype), Z.astype(dtype)
    model = clone(EQUIVARIANT[name])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for sigma in (0.0, 0.01, 0.4, 30.0, np.inf):
            expected = model.fit(x).denoise(z, sigma)
            scaled = model.fit(x * dtype(factor)).denoise(z * dtype(factor), sigma * factor)
            tolerance = 3e-5 if dtype == np.float32 else 1e-9
            np.testing.assert_allclose(
                scaled / dtype(factor), expected, rtol=0, atol=tolerance, err_msg=str(sigma)
            )


@pytest.mark.parametrize("name", DENOISERS)
@given(exponents(), exponents(), exponents(), st.sampled_from([np.float32, np.float64]))
def test_any_magnitudes(name, of_x, of_z, of_sigma, dtype):
    x, z = 10.0**of_x * X, 10.0**of_z * Z
    with np.errstate(all="ignore"):
        x, z = (np.nan_to_num(images.astype(dtype)) for images in (x, z))
    assume(len(np.unique(x, axis=0)) == len(X))  # neither rounded to zero nor cut to the largest
    sigma = 0.4 * 10.0**of_sigma
    model = clone(DENOISERS[name])

    def fitted_and_asked():
        return model.fit(x, Y).denoise(z, sigma)

    if answer_or_refusal(fitted_and_asked) is not None and learns(model):
        answer_or_refusal(lambda: model.denoise(z, sigma, y=1, guidance=10.0**of_sigma))


@given(
    exponents(-320, 308),
    exponents(-320, 308),
    st.sampled_from([np.float32, np.float64]),
    st.sampled_from(["ddim", "dpmpp_2m", "edm", "euler", "heun"]),
    st.sampled_from(["empirical", "gaussian", "pspc-2", "local-zero", "pspc-global"]),
)
def test_samples_are_finite(low, high, dtype, sampler, name):
    model = clone(DENOISERS[name]).fit(X.astype(dtype), Y)
    low, high = sorted([low, high])
    options = dict(n_steps=3, sigma_min=10.0**low, sigma_max=10.0**high, sampler=sampler)
    with np.errstate(over="ignore", under="ignore"):
        answer_or_refusal(lambda: model.sample(1, random_state=0, **options))
        answer_or_refusal(
            lambda: model.sample(1, random_state=0, y=1, guidance=10.0**high, n_steps=3)
        )


def test_the_examples_of_the_issue():
    x, z = X.astype(np.float32), Z.astype(np.float32)
    far = np.full((1, *SHAPE), 3e38, np.float32)
    labelled = EmpiricalDenoiser().fit(x, Y)
    elsewhere = LocalScoreDenoiser(3, equivariant=True)
    with pytest.raises(ValueError, match=r"sigma_max must be between 1e-16 and 1e\+14 in float32"):
        labelled.sample(1, n_steps=3, sigma_max=1e300)
    with pytest.raises(ValueError, match=r"sigma_min must be between 1e-16 and 1e\+14 in float32"):
        labelled.sample(1, sigma_min=1e-300)
    with pytest.raises(ValueError, match=r"guidance=1e\+39 is not finite.*1e\+16"):
        labelled.denoise(z, 0.5, y=1, guidance=1e39)
    with pytest.raises(ValueError, match=r"guidance=1e\+39 is not finite.*1e\+16"):
        labelled.sample(1, y=1, guidance=1e39)
    for model in (GaussianDenoiser(), EmpiricalDenoiser(bandwidth=0.3)):
        with pytest.raises(ValueError, match=r"Z reaches a magnitude of 3e\+38, which must be at"):
            model.fit(x).denoise(far, 0.5)
    with pytest.raises(ValueError, match=r"X reaches .*e-31, which must be between 1e-16 and"):
        elsewhere.fit(x * np.float32(1e-30))
    factor = 2.0**-100
    expected = elsewhere.fit(X).denoise(Z, 0.3)
    answer = elsewhere.fit(X * factor).denoise(Z * factor, 0.3 * factor) / factor
    np.testing.assert_allclose(answer, expected, rtol=0, atol=1e-12)
    for sigma in (1e-20, 1e-300):  # beside the images, zero
        np.testing.assert_array_equal(labelled.denoise(z, sigma), labelled.denoise(z, 0.0))
    assert labelled.denoise(z, 1e300).shape == z.shape


@pytest.mark.parametrize("factor", [1e-31, 1e31])
def test_noisy_images_of_a_dtype_that_the_training_images_exceed(factor):
    """Once, float64 training images of 1e-31 vanished in float32: blurred images were off by 2%."""
    for model in (EmpiricalDenoiser(bandwidth=0.3), PSPCDenoiser(2), GaussianDenoiser()):
        model.fit(factor * X)
        model.denoise(factor * Z, 0.3 * factor)
        with pytest.raises(
            ValueError, match=r"1e-16 and 1e\+16 for noisy images in float32.*float64"
        ):
            model.denoise((Z / 1e20).astype(np.float32), 0.3 * factor)


@pytest.mark.parametrize("dtype", [torch.complex64, torch.complex128])
def test_complex_tensors_are_refused(dtype):
    model = EmpiricalDenoiser().fit(X)
    with pytest.raises(ValueError, match=r"X is a complex tensor"):
        model.fit(torch.from_numpy(X).to(dtype))
    model.fit(X)
    with pytest.raises(ValueError, match=r"Z is a complex tensor"):
        model.denoise(torch.from_numpy(Z).to(dtype), 0.5)
    with pytest.raises(ValueError, match=r"sigma is a complex tensor"):
        model.denoise(Z, torch.tensor(0.5, dtype=dtype))
    with pytest.raises(ValueError, match=r"sample_weight is a complex tensor"):
        model.fit(X, sample_weight=torch.ones(12, dtype=dtype))
    for sigma in (0.5 + 1j, np.array(0.5 + 1j), [0.5 + 1j, 1]):
        with pytest.raises(ValueError, match="sigma must be a number"):
            model.denoise(Z, sigma)


def test_an_answer_that_is_not_finite_is_never_returned():
    model = SmoothedDenoiser(EmpiricalDenoiser(), tau=1e308).fit(X)
    with pytest.raises(ValueError, match="the posterior mean is not finite"):
        model.denoise(Z, 0.5)

    def leaving(denoise, z, sigmas):
        for _ in sigmas:
            yield z / 0

    with pytest.raises(ValueError, match="a sample is not finite"):
        EmpiricalDenoiser().fit(X).sample(1, n_steps=2, sampler=leaving)
    network = NetworkDenoiser(lambda x, c: x / 0, image_shape=SHAPE)
    with pytest.raises(ValueError, match="the network returned NaN or infinity"):
        network.denoise(Z, 0.5)


def test_schedules_are_finite():
    for parameters in (dict(sigma_max=1e300, rho=0.1), dict(sigma_min=1e-300, rho=0.1)):
        with pytest.raises(ValueError, match=r"rho=0.1 makes .* exceed the range of float64"):
            edm_sigmas(3, **parameters)
