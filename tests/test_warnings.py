"""Warnings point at the line of the user, however deep in the package they are issued."""

import warnings

import numpy as np
import pytest
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline

from skpspc import EmpiricalDenoiser, NetworkDenoiser, PatchDenoiser, PSPCDenoiser

X = 300 * np.random.default_rng(0).random((8, 1, 6, 6))
SEARCH = GridSearchCV(PatchDenoiser(), {"patch_size": [9]}, cv=2)


def fitted():
    """A denoiser that has not warned since its fit."""
    return EmpiricalDenoiser().fit(X)


CALLS = {
    "fit, patch": lambda: PatchDenoiser(9).fit(X),
    "fit, units": lambda: PSPCDenoiser().fit(X),
    "partial_fit": lambda: PatchDenoiser(9).partial_fit(X),
    "fit_transform": lambda: PatchDenoiser(9).fit_transform(X),
    "search": lambda: SEARCH.fit(X),
    "pipeline": lambda: make_pipeline(PatchDenoiser(9)).fit(X),
    "denoise": lambda: fitted().denoise(X + 1000, 0.1),
    "posterior": lambda: fitted().posterior(X + 1000, 0.1),
    "transform": lambda: fitted().transform(X + 1000),
    "score_samples": lambda: fitted().score_samples(X + 1000, 0.1),
    "score": lambda: fitted().score(X),
    "sample": lambda: fitted().sample(2, n_steps=2),
    "network": lambda: NetworkDenoiser(lambda z, sigma: z).fit(X).score(X),
}


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_a_warning_points_at_the_caller(call):
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        call()
    files = {warning.filename for warning in seen if warning.category is UserWarning}
    assert files == {__file__}
