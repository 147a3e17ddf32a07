"""A user's file type-checks with mypy, which refuses wrong calls."""

import re
from pathlib import Path

import pytest

import skpspc

CORRECT = """
from functools import partial
from typing import Any

import numpy as np
import torch
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from typing_extensions import assert_type

from skpspc import (
    BandwidthSchedule,
    BlendedDenoiser,
    EmpiricalDenoiser,
    FlexibleWindows,
    GaussianDenoiser,
    LocalScoreDenoiser,
    NetworkDenoiser,
    PatchDenoiser,
    PatchSchedule,
    PCALocalityDenoiser,
    Posterior,
    PosteriorMeanCollection,
    PSPCDenoiser,
    SamplingInterrupted,
    SmoothedDenoiser,
    load_network,
    tapered_windows,
)
from skpspc.adapters import (
    as_azula,
    as_deepinv,
    as_diffusers_unet,
    as_edm,
    as_kdiffusion,
    as_smalldiffusion,
)
from skpspc.datasets import load_digits_images
from skpspc.sampling import ddim, dpmpp_2m, vp_sigmas
from skpspc.inspection import ComparisonTable, ErrorTable, compare, error_curve

digits = load_digits_images()
X, y = digits.images, digits.target
Z = X[:4] / 127.5 - 1 + np.random.default_rng(0).standard_normal((4, 1, 8, 8))
tensor = torch.from_numpy(Z)

model = PSPCDenoiser(patch_size=8, data_range=(-1, 1), device="cpu").fit(X, y)
assert_type(model, PSPCDenoiser)
assert_type(model.partial_fit(X, y, sample_weight=np.ones(len(X))), PSPCDenoiser)
assert_type(model.image_shape_, tuple[int, int, int])
assert_type(model.n_features_in_, int)
assert_type(model.classes_, np.ndarray)

array = np.zeros((4, 1, 8, 8))
assert_type(model.denoise(array, 0.5), np.ndarray)
assert_type(model.denoise(tensor, 0.5), torch.Tensor)
assert_type(model.denoise([[0.5, 0.5]], [0.1]), np.ndarray)
assert_type(model.denoise(tensor, torch.ones(4), y=[1, 2, 3, 4], guidance=2.0), torch.Tensor)
assert_type(model.denoise(array, np.float32(0.5), y=3), np.ndarray)
assert_type(model.transform(array), np.ndarray)
assert_type(model.transform(tensor), torch.Tensor)
assert_type(model.score_samples(tensor, 0.5), torch.Tensor)
assert_type(model.score_samples(array), np.ndarray)
assert_type(model.score(X[:4]), float)
assert_type(model.score(X[:4], None, sigmas=[0.5, 1.0]), float)
assert_type(model.jacobian(tensor, 0.5, pixels=[(4, 4)]), torch.Tensor)
assert_type(model.sensitivity(array, 0.5, [(4, 4)], sample_weight=[1, 1, 1, 1]), np.ndarray)
assert_type(model.denoise_without(tensor, 0.5, [0, [1, 2]]), torch.Tensor)

posterior = model.posterior(Z, sigma=0.5, y="3")
assert_type(posterior, Posterior)
errors = np.square(posterior.mean - Z).mean()
model.attribute(Z, 0.5, top=3, by="window").share

samples = model.sample(n=16)
print(samples.shape, samples.mean(axis=0), samples[0].round(2))
samples, states = model.sample(2, y=[0, 1], return_trajectory=True)
assert_type(model.sample(2, return_trajectory=True), tuple[Any, Any])
assert_type(model.sample(2, return_trajectory=False), Any)


def report(step: int, sigma: float, z: torch.Tensor) -> None:
    print(step, sigma, z.std())


model.sample(n=2, random_state=np.random.default_rng(0), callback=report)
model.sample(sampler=partial(ddim, eta=1.0), sigmas=vp_sigmas(18))
model.sample(sampler="edm", rho=5, sigmas=[80.0, 1.0, 0.0])
try:
    model.sample(sampler=dpmpp_2m)
except SamplingInterrupted as stop:
    model.sample(initial=stop)


def network(x: torch.Tensor, c: torch.Tensor) -> torch.Tensor:
    return x / (1 + c[:, None, None, None] ** 2)


trained = NetworkDenoiser(network, "eps", network_range=(0, 1), image_shape=(1, 8, 8))
assert_type(trained.denoise(array.astype(np.float32), 0.5), np.ndarray)
NetworkDenoiser(torch.nn.Identity(), dtype="float32", batch_size=4).fit(X).sample(n=2)
assert_type(load_network("weights.pt", torch.nn.Conv2d(1, 1, 3)), torch.nn.Module)

net = as_edm(model)
assert_type(net.img_resolution, int)
assert_type(net.round_sigma([0.5]), torch.Tensor)
assert_type(as_kdiffusion(model).get_sigmas(18), torch.Tensor)
as_azula(model, schedule=None).schedule
as_deepinv(model)(tensor, 0.1)
as_smalldiffusion(model)(tensor, torch.tensor(0.5))
as_diffusers_unet(model, scheduler=None)(tensor, 3).sample
NetworkDenoiser(network, time="linear", network_kwargs={"class_labels": torch.tensor([3])})

search = GridSearchCV(PSPCDenoiser(), {"patch_size": [2, 4, 8]}).fit(X)
make_pipeline(GaussianDenoiser(rank=8), EmpiricalDenoiser()).fit(X).transform(X)
copied: EmpiricalDenoiser = clone(EmpiricalDenoiser())
model.set_params(patch_size=4).fit(X)

empirical = EmpiricalDenoiser(n_neighbors=lambda sigma: 5, index="IVF16,Flat", tol=1e-3).fit(X)
assert_type(empirical.index_recall(k=5), float)
assert_type(PatchDenoiser(3, location=(2, 2)).fit(X).window_, tuple[int, int])
assert_type(PatchDenoiser(location="all").fit(X).corners_, list[tuple[int, int]])
PSPCDenoiser(PatchSchedule([0.1, 1.0], [3, 8]), bandwidth=BandwidthSchedule([1.0], [0.5]))
PSPCDenoiser("calibrated", random_state=None).fit(X)
PSPCDenoiser(windows=FlexibleWindows("data", thresholds=0.9, sigmas=[0.1, 1.0], soft=True))
PSPCDenoiser(windows=FlexibleWindows(trained, [0.9], np.array([0.1])))
gaussian = GaussianDenoiser(shrinkage="oas").fit(X)
print(gaussian.mean_.reshape(8, 8), gaussian.wiener(0.5, rows=[3]))
assert_type(gaussian.shrinkage_, float)
PCALocalityDenoiser(threshold=0.1).fit(X).neighbours(0.5)
LocalScoreDenoiser(lambda sigma: 3, equivariant=True, boundary="broken").fit(X)
collection = PosteriorMeanCollection(tapered_windows((1, 8, 8), 5), source="flips").fit(X)
smoothed = SmoothedDenoiser(EmpiricalDenoiser(), tau=0.5).fit(X)
blended = BlendedDenoiser([("pspc", PSPCDenoiser()), ("net", trained)], against=trained).fit(X)
assert_type(blended, BlendedDenoiser)
assert_type(blended.weights_, np.ndarray)
assert_type(tapered_windows((1, 8, 8), 5, width=1.0), np.ndarray)


class Shrinkage:
    def denoise(self, z: torch.Tensor, sigma: float) -> torch.Tensor:
        return z / (1 + sigma**2)


several = {"pspc": model, "gaussian": gaussian, "network": trained}
assert_type(error_curve(several, X, [0.1, 1.0], against=trained, along="pspc"), ErrorTable)
assert_type(error_curve(model, X, np.array([0.1]), against="clean"), ErrorTable)
error_curve([model, empirical], tensor, torch.ones(1), against=Shrinkage(), sampler="euler")
error_curve({"pspc": model, "own": Shrinkage()}, X, [0.5], against="clean")
assert_type(compare([model, gaussian], None, (0.5, 1), process="reverse"), ComparisonTable)
assert_type(compare(several, X, [0.5], along=trained).differences, np.ndarray)
"""

# Each line is an error of the kind at its end.
WRONG = """
import numpy as np
import torch

from skpspc import (
    EmpiricalDenoiser,
    FlexibleWindows,
    GaussianDenoiser,
    NetworkDenoiser,
    PatchDenoiser,
    PSPCDenoiser,
    load_network,
    tapered_windows,
)
from skpspc.adapters import as_edm, as_kdiffusion
from skpspc.inspection import compare, error_curve

X = np.zeros((4, 1, 8, 8))
model = PSPCDenoiser().fit(X)
PSPCDenoiser(patch_size=[1])  # arg-type
PSPCDenoiser(patchsize=3)  # call-arg
PSPCDenoiser(engine="cuda")  # arg-type
EmpiricalDenoiser("faiss")  # call-arg
EmpiricalDenoiser(sigma="high")  # arg-type
PatchDenoiser(location="left")  # arg-type
GaussianDenoiser(shrinkage="ridge")  # arg-type
FlexibleWindows("data", 0.5)  # call-arg
NetworkDenoiser()  # call-arg
NetworkDenoiser(torch.nn.Identity(), parametrization="x_0")  # arg-type
model.denoise(X)  # call-overload
model.denoise(X, sigma="high")  # arg-type
number: float = model.denoise(X, 0.5)  # assignment
model.posterior(X)  # call-arg
model.sample(n="all")  # call-overload
model.sample(steps=18)  # call-overload
model.sample(2, return_trajectory=True).mean()  # attr-defined
model.sample(sampler="rk4")  # call-overload
error_curve(model, X, [0.5], against="optimum")  # arg-type
error_curve(model, X, [0.5], against=torch.nn.Identity())  # arg-type
error_curve(model, X, 0.5)  # arg-type
error_curve(model, X, ["high"])  # list-item
compare([model, 3], X, [0.5])  # list-item
compare({"identity": torch.nn.Identity()}, X, [0.5])  # dict-item
model.attribute(X, 0.5, by="patch")  # arg-type
model.score(X).mean()  # attr-defined
load_network()  # call-arg
NetworkDenoiser(torch.nn.Identity(), network_kwargs=3)  # arg-type
as_edm(torch.nn.Identity())  # arg-type
as_kdiffusion(model).get_sigmas("all")  # arg-type
tapered_windows(8, 3)  # arg-type
"""


@pytest.fixture(scope="module")
def messages(tmp_path_factory):
    """Return what mypy writes about both files, a list of lines."""
    api = pytest.importorskip("mypy.api", reason="mypy checks the types of a user's file")
    folder = tmp_path_factory.mktemp("user")
    for name, text in (("correct", CORRECT), ("wrong", WRONG)):
        (folder / f"{name}.py").write_text(text.lstrip())
    options = ["--strict", "--ignore-missing-imports", "--config-file="]
    options += ["--follow-imports=silent", "--no-error-summary", "--no-pretty"]
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("MYPYPATH", str(Path(skpspc.__file__).parents[1]))
        out, problems, _ = api.run([*options, "correct.py", "wrong.py"])
    assert not problems
    return out.splitlines()


def test_a_correct_file_has_no_errors(messages):
    assert not [line for line in messages if line.startswith("correct.py")]


def test_wrong_calls_are_errors(messages):
    expected = {
        (number, line.partition("  # ")[2])
        for number, line in enumerate(WRONG.lstrip().splitlines(), 1)
        if "  # " in line
    }
    reported = re.findall(r"^wrong\.py:(\d+): error: .* \[([\w-]+)\]$", "\n".join(messages), re.M)
    assert {(int(number), kind) for number, kind in reported} == expected


def test_the_package_says_that_it_is_typed():
    assert (Path(skpspc.__file__).parent / "py.typed").is_file()
