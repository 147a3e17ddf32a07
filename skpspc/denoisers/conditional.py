"""Priors of noisy images that have classes, and the blend of classes with all images."""

from dataclasses import dataclass, replace

import torch

from ..posterior import BasePrior
from ..posterior.posterior import gathered


@dataclass(frozen=True, eq=False)
class ByClass(BasePrior):
    """The priors of the classes of n noisy images.

    Attributes
    ----------
    priors : dict
        The prior of each class, by its code.
    codes : Tensor of shape (n,), int64
        Class of each noisy image.
    """

    priors: dict[int, BasePrior]
    codes: torch.Tensor

    @property
    def device(self):
        """Device of the computation."""
        return self.codes.device

    def _groups(self):
        """Yield each class's prior, and the indices of its noisy images."""
        for code, prior in self.priors.items():
            yield prior, (self.codes == code).nonzero().squeeze(1)

    def posterior(self, z, sigma):
        """Return the posterior of each noisy image over the training images of its class."""
        groups = [(rows, prior.posterior(z[rows], sigma[rows])) for prior, rows in self._groups()]
        return gathered(groups, len(z))

    def vjp(self, z, sigma, mean, evidence):
        """Return the cotangents of z and sigma; see `BasePrior.vjp`."""
        of_z, of_sigma = torch.zeros_like(z), torch.zeros_like(sigma)
        for prior, rows in self._groups():
            cotangents = mean[rows], evidence[rows]
            of_z[rows], of_sigma[rows] = prior.vjp(z[rows], sigma[rows], *cotangents)
        return of_z, of_sigma

    def jvp(self, z, sigma, dz, dsigma):
        """Return the tangents of mean and log evidence; see `BasePrior.jvp`."""
        groups = [
            (rows, *prior.jvp(z[rows], sigma[rows], dz[rows], dsigma[rows]))
            for prior, rows in self._groups()
        ]
        mean, evidence = z.new_zeros(len(z), *groups[0][1].shape[1:]), torch.zeros_like(sigma)
        for rows, of_mean, of_evidence in groups:
            mean[rows], evidence[rows] = of_mean, of_evidence
        return mean, evidence

    def trace(self, z, sigma):
        """Return the traces of the classes' Jacobians, or None."""
        out = torch.zeros_like(sigma)
        for prior, rows in self._groups():
            trace = prior.trace(z[rows], sigma[rows])
            if trace is None:
                return None
            out[rows] = trace
        return out

    def for_sampling(self):
        """Return the priors for one run of a sampler."""
        priors = {code: prior.for_sampling() for code, prior in self.priors.items()}
        return replace(self, priors=priors)


@dataclass(frozen=True, eq=False)
class Guided(BasePrior):
    """The blend of the prior of a class and of all images, ``all + guidance * (class - all)``.

    All numbers but the mean are of the class.
    """

    everything: BasePrior
    of_class: BasePrior
    guidance: float

    @property
    def device(self):
        """Device of the computation."""
        return self.everything.device

    def posterior(self, z, sigma):
        """Return the posterior of the class, with the blended mean."""
        result = self.of_class.posterior(z, sigma)
        mean = self.everything.mean(z, sigma)
        return replace(result, mean=mean + self.guidance * (result.mean - mean))

    def vjp(self, z, sigma, mean, evidence):
        """Return the cotangents of z and sigma; see `BasePrior.vjp`."""
        of_class = self.of_class.vjp(z, sigma, self.guidance * mean, evidence)
        rest = (1 - self.guidance) * mean
        of_all = self.everything.vjp(z, sigma, rest, torch.zeros_like(evidence))
        return of_class[0] + of_all[0], of_class[1] + of_all[1]

    def jvp(self, z, sigma, dz, dsigma):
        """Return the tangents of mean and log evidence; see `BasePrior.jvp`."""
        mean, evidence = self.of_class.jvp(z, sigma, dz, dsigma)
        of_all, _ = self.everything.jvp(z, sigma, dz, dsigma)
        return of_all + self.guidance * (mean - of_all), evidence

    def trace(self, z, sigma):
        """Return the blended traces of the Jacobians, or None."""
        of_class, of_all = self.of_class.trace(z, sigma), self.everything.trace(z, sigma)
        if of_class is None or of_all is None:
            return None
        return of_all + self.guidance * (of_class - of_all)

    def for_sampling(self):
        """Return the priors for one run of a sampler."""
        return replace(
            self, everything=self.everything.for_sampling(), of_class=self.of_class.for_sampling()
        )
