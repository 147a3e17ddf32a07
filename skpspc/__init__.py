"""Training-free diffusion denoisers with the interface of scikit-learn."""

TYPE_CHECKING = False  # type checkers take it for true; importing `typing` would take time
if TYPE_CHECKING:
    from . import adapters as adapters
    from . import datasets as datasets
    from . import denoisers as denoisers
    from . import inspection as inspection
    from . import posterior as posterior
    from . import sampling as sampling
    from . import saving as saving
    from . import support as support
    from .denoisers import (
        AutoDenoiser,
        BlendedDenoiser,
        Divergence,
        EmpiricalDenoiser,
        FlexibleWindows,
        GaussianDenoiser,
        LocalScoreDenoiser,
        LogLikelihood,
        NetworkDenoiser,
        PatchDenoiser,
        PCALocalityDenoiser,
        PosteriorMeanCollection,
        PSPCDenoiser,
        SingleImageDenoiser,
        SmoothedDenoiser,
        denoise_tiled,
        load_network,
    )
    from .posterior import Posterior
    from .sampling import BandwidthSchedule, PatchSchedule, SamplingInterrupted, edm_sigmas
    from .saving import load
    from .support import tapered_windows

__version__ = "0.1.0"

__all__ = [
    "AutoDenoiser",
    "BandwidthSchedule",
    "BlendedDenoiser",
    "Divergence",
    "EmpiricalDenoiser",
    "FlexibleWindows",
    "GaussianDenoiser",
    "LocalScoreDenoiser",
    "LogLikelihood",
    "NetworkDenoiser",
    "PCALocalityDenoiser",
    "PSPCDenoiser",
    "PatchDenoiser",
    "PatchSchedule",
    "Posterior",
    "PosteriorMeanCollection",
    "SamplingInterrupted",
    "SingleImageDenoiser",
    "SmoothedDenoiser",
    "__version__",
    "denoise_tiled",
    "edm_sigmas",
    "load",
    "load_network",
    "tapered_windows",
]

_SUBPACKAGES = (
    "adapters",
    "datasets",
    "denoisers",
    "inspection",
    "posterior",
    "sampling",
    "saving",
    "support",
)
_HOMES = ("sampling", "support", "posterior", "denoisers", "saving")  # of the names above


def __getattr__(name):
    """Import a public name or a subpackage when it is first used (PEP 562)."""
    from importlib import import_module

    if name in _SUBPACKAGES:
        return import_module(f".{name}", __name__)
    if name in __all__:
        for home in _HOMES:
            module = import_module(f".{home}", __name__)
            if name in module.__all__:
                globals()[name] = getattr(module, name)
                return globals()[name]
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__():
    return sorted({*globals(), *__all__, *_SUBPACKAGES})
