"""What denoisers share whose posterior may come from a few training images."""

import math
import numbers
from functools import partial

import numpy as np
import torch
from sklearn.utils._param_validation import Interval, StrOptions
from sklearn.utils.validation import check_is_fitted
from tqdm.auto import tqdm

from .._threads import torch_threads
from ..posterior import (
    Posterior,
    dense_posterior,
    nearest_posterior,
    smoothed_posterior,
    tolerant_posterior,
)
from ..sampling import draw_noise, noise_seed
from ..support import Neighbours, Recall, Windows, check_index
from ._names import named_denoiser
from .bandwidth import BandwidthDenoiser

_TOL = 1e-3  # of algorithm="faiss", where nothing else is said


@named_denoiser
class IndexedDenoiser(BandwidthDenoiser):
    """Base of denoisers with whole-image (or whole-crop) posteriors, exact or from an index."""

    _parameter_constraints = {
        **BandwidthDenoiser._parameter_constraints,
        "algorithm": [StrOptions({"auto", "exact", "faiss"})],
        "n_neighbors": [Interval(numbers.Integral, 1, None, closed="left"), callable, None],
        "tol": [Interval(numbers.Real, 0, None, closed="neither"), None],
        "index": [str],
        "n_remainder": [Interval(numbers.Integral, 0, None, closed="left")],
        "verbose": ["verbose"],
    }

    def __init__(
        self,
        *,
        algorithm="auto",
        n_neighbors=None,
        tol=None,
        index="Flat",
        n_remainder=0,
        bandwidth=0.0,
        verbose=0,
        sigma=0.5,
        image_shape=None,
        data_range=None,
        device=None,
        random_state=0,
    ):
        super().__init__(
            sigma=sigma,
            image_shape=image_shape,
            data_range=data_range,
            device=device,
            random_state=random_state,
        )
        self.algorithm = algorithm
        self.n_neighbors = n_neighbors
        self.tol = tol
        self.index = index
        self.n_remainder = n_remainder
        self.bandwidth = bandwidth
        self.verbose = verbose

    @property
    def _proved_by(self):
        return (
            f"index={self.index!r} can miss training images: measure how many by index_recall, or "
            "use an index made of Flat, IVF, SQ, PQ, PCA, OPQ and RR alone for a proved bound"
        )

    @property
    def _may_leave_out(self):
        """Whether a number of neighbours or a tolerance is given."""
        return self.n_neighbors is not None or self.tol is not None

    @property
    def _is_exact(self):
        """Whether all training images are always used."""
        return not (self._may_leave_out or self.algorithm == "faiss")

    def _resolve(self):
        self._neighbours = {}
        self._check_approximation()
        self._learn_bandwidth()

    def _extend(self):
        self._check_approximation()
        for place, neighbours in self._neighbours.items():
            self._neighbours[place] = neighbours.extended(self._gathered_from(place))
        self._learn_bandwidth()

    def _check_approximation(self):
        """Whether the parameters fit one another and the training set."""
        if self.algorithm == "exact" and (self._may_leave_out or self.n_remainder):
            raise ValueError(
                "algorithm='exact' uses all training images; leave n_neighbors and tol at None "
                "and n_remainder at 0, or use algorithm='auto'."
            )
        if self.n_remainder and self.n_neighbors is None:
            raise ValueError(
                f"n_remainder={self.n_remainder} stands for the images beyond the nearest; pass "
                "n_neighbors too."
            )
        if isinstance(self.n_neighbors, numbers.Integral):
            self._checked_k(self.n_neighbors)
        if self._smooths and not self._is_exact:
            raise ValueError(
                f"bandwidth={self.bandwidth!r} blurs all training images; leave n_neighbors and "
                "tol at None and algorithm at 'auto', or bandwidth at 0."
            )
        if not self._is_exact and self._n_whole is None:
            check_index(self.index, self._seen_from(self._places[0]))

    @torch_threads()
    def index_recall(self, k=10, *, sigma=None, n_images=64):
        """Share of the k nearest training images that the index finds, by comparison with all.

        The ``error_bound`` of graphs, such as ``index="HNSW32"``, takes for granted that they
        miss nothing, and ``bound_is_proved`` is False. It can be relied on where the recall is 1,
        at the k that the posterior needs, and not where the recall is clearly less: a graph with
        more edges ("HNSW64") or another index helps. The bound of an index that looks at all
        that is near, such as "Flat" or "IVF256,Flat", holds whatever its recall; see ``index``.

        Parameters
        ----------
        k : int, default 10
            Between 1 and the number of training images.
        sigma : float, default None
            Noise level of the images that are looked up, finite. None: the constructor's.
        n_images : int, default 64
            How many are: training images, evenly spaced over X, with noise that ``random_state``
            fixes. Each is compared with all training images.

        Returns
        -------
        float
            Between 0 and 1. What ties with the k-th counts as found. Of `PatchDenoiser`, the
            mean over its places.

        Raises
        ------
        ValueError
            Where all training images are used and there is no index, or for a parameter out of
            range.
        """
        check_is_fitted(self)
        if self._is_exact:
            raise ValueError(
                "all training images are used, so there is no index; pass tol, n_neighbors or "
                "algorithm='faiss' to have one."
            )
        n = len(self.training_set_)
        for name, value, most in (("k", k, n), ("n_images", n_images, math.inf)):
            if not isinstance(value, numbers.Integral) or not 1 <= int(value) <= most:
                above = "of at least 1" if most == math.inf else f"between 1 and {most}"
                raise ValueError(f"{name} must be an int {above}, got {value!r}.")
        level = self.sigma if sigma is None else sigma
        if not (isinstance(level, numbers.Real) and 0 <= float(level) < math.inf):
            raise ValueError(f"sigma must be finite and non-negative, got {level!r}.")
        rows = torch.linspace(0, n - 1, min(n_images, n)).long().to(self._device)
        recalls = []
        for place in self._places:
            x = self._seen_from(place).take(rows, torch.float32)
            noise = draw_noise(x.shape[1:], len(x), noise_seed(self.random_state)).to(x)
            z = x + level * noise
            recalls.append(float(self._neighbours_from(place).recall(z, k).mean()))
        return float(np.mean(recalls))

    def _checked_k(self, k):
        n = self._n_whole or len(self.training_set_)
        if not isinstance(k, numbers.Integral) or not 1 <= int(k) <= n:
            raise ValueError(
                f"n_neighbors must be between 1 and the number of training images, {n}, or a "
                f"callable that gives such an int for every sigma; got {k!r}."
            )
        return min(int(k), len(self.training_set_))

    def _walker(self):
        return partial(self._denoise_at, recalls={place: Recall() for place in self._places})

    def _posterior_at(self, z, sigma, place=None, recalls=None):
        """Posterior of images, or of what is seen of them from a place.

        ``recalls`` holds, for every place, what was found a sampler's step ago.
        """
        if self._is_exact:
            plain = partial(dense_posterior, training_set=self._seen_from(place))
            return self._by_bandwidth(z, sigma, plain, partial(self._smoothed_at, place), place)
        neighbours = self._neighbours_from(place)
        training_set = neighbours.training_set
        if self.n_neighbors is None:
            tol = _TOL if self.tol is None else self.tol
            recall = recalls[place] if recalls else None
            return tolerant_posterior(z, sigma, training_set, neighbours, tol, recall)
        posterior = self._nearest(z, sigma, training_set, neighbours)
        if self.tol is None:
            return posterior
        off = (posterior.error_bound > self.tol).nonzero().squeeze(1)
        if not len(off):
            return posterior
        better = tolerant_posterior(z[off], sigma[off], training_set, neighbours, self.tol)
        return posterior.updated(off, better)

    def _whole(self, sigma, place=None, corner=(0, 0)):
        """The one window over all that is seen from a place, as `Windows`."""
        self._check_plain(sigma)
        source = self._seen_from(place)
        everywhere = torch.ones(1, 1, *source.image_shape[1:], dtype=torch.bool)
        everywhere = everywhere.to(source.device)
        return Windows(everywhere, everywhere, source, corner)

    def _neighbours_from(self, place):
        """The search for what is near, seen from a place; its index is built when it is asked."""
        if place not in self._neighbours:
            known = Neighbours(
                self._gathered_from(place),
                self.index,
                self._track,
                fallback=None if self._n_whole is None else "Flat",
            )
            self._neighbours.setdefault(place, known)
        return self._neighbours[place]

    def _gathered_from(self, place):
        """What is seen from a place, as single images can be read from it fast."""
        return self._seen_from(place).contiguous()

    def _smoothed_at(self, place, z, sigma, bandwidth):
        """The same for images of one sigma, at a bandwidth above zero."""
        training_set, gaussian = self._seen_from(place), self._gaussian(place)
        return smoothed_posterior(z, sigma, training_set, gaussian, bandwidth)

    def _track(self, blocks):
        """Blocks of images on their way into an index, with a progress bar if one is wanted."""
        return tqdm(blocks, "indexing", disable=self.verbose <= 0)

    def _nearest(self, z, sigma, training_set, neighbours):
        """Posterior from as many neighbours as are wanted at each sigma."""
        wanted = self.n_neighbors
        levels = sigma.tolist()
        ks = [self._checked_k(wanted(s) if callable(wanted) else wanted) for s in levels]
        seed = noise_seed(self.random_state)

        def of_one_k(rows, k):
            return nearest_posterior(
                z[rows],
                sigma[rows],
                training_set,
                neighbours,
                k,
                n_remainder=self.n_remainder,
                random_state=np.random.default_rng(seed),
            )

        return Posterior.by_group(ks, of_one_k)

    def __setstate__(self, state):
        super().__setstate__(state)
        for place, neighbours in getattr(self, "_neighbours", {}).items():
            neighbours.training_set = self._gathered_from(place)
