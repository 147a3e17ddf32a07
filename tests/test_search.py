"""In scikit-learn's company: searches and pipelines."""

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, KFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer

from skpspc import EmpiricalDenoiser, PSPCDenoiser
from skpspc.datasets import load_digits_images


def test_grid_search_over_the_patch_size(digits):
    """Held-out images: patches of a few pixels denoise better than whole images, or single ones."""
    X = digits[:300]
    search = GridSearchCV(PSPCDenoiser(), {"patch_size": [1, 2, 4, 8]}, cv=KFold(3)).fit(X)
    scores = dict(zip([1, 2, 4, 8], search.cv_results_["mean_test_score"].tolist(), strict=True))
    assert search.best_params_ == {"patch_size": max(scores, key=scores.get)}
    assert search.best_params_["patch_size"] in (2, 4)
    assert scores[4] > scores[8] + 0.01
    assert scores[4] > scores[1] + 0.01
    # the same numbers as without the search
    train, test = next(KFold(3).split(X))
    by_hand = PSPCDenoiser(4).fit(X[train]).score(X[test])
    assert search.cv_results_["split0_test_score"][2] == pytest.approx(by_hand, rel=1e-6)
    assert search.best_estimator_.denoise(X[:2], 0.5).shape == (2, 1, 8, 8)


def test_the_largest_patch_scores_as_the_empirical_denoiser(digits):
    X, held_out = digits[:200], digits[200:240]
    whole = EmpiricalDenoiser().fit(X).score(held_out)
    assert PSPCDenoiser(8).fit(X).score(held_out) == pytest.approx(whole, rel=1e-9)


def test_denoising_in_a_pipeline_helps_a_classifier():
    """Trained on clean digits, asked about noisy ones."""
    digits = load_digits_images()
    x = (digits.images / 127.5 - 1).reshape(-1, 64).astype(np.float32)
    train, test = slice(0, 600), slice(600, 900)
    sigma = 0.8
    noisy = x[test] + sigma * np.random.default_rng(0).standard_normal(x[test].shape)
    noisy = noisy.astype(np.float32)
    plain = LogisticRegression(max_iter=300).fit(x[train], digits.target[train])
    denoiser = PSPCDenoiser(4, sigma=sigma, image_shape=(1, 8, 8))
    pipeline = make_pipeline(denoiser, LogisticRegression(max_iter=300))
    pipeline.fit(x[train], digits.target[train])
    without = plain.score(noisy, digits.target[test])
    assert pipeline.score(noisy, digits.target[test]) > without + 0.03
    assert pipeline[:-1].get_feature_names_out().shape == (64,)


def test_images_pass_through_a_pipeline(digits):
    pipeline = make_pipeline(
        FunctionTransformer(lambda images: images / 127.5 - 1), PSPCDenoiser(3, sigma=0.3)
    )
    out = pipeline.fit(digits[:50]).transform(digits[50:53])
    assert out.shape == (3, 1, 8, 8)
    expected = PSPCDenoiser(3).fit(digits[:50]).denoise(digits[50:53] / 127.5 - 1, 0.3)
    np.testing.assert_allclose(out, expected, atol=1e-12)
