"""The posterior of noisy images, computed by the kernel for their windows."""

from ..support import Centred, Masks, Squares, SquaresAnywhere, Whole
from ..support.sharded import ShardedTrainingSet
from ..support.windows import n_compared
from . import sharded, sharded_blur
from .anywhere import anywhere
from .batches import check_served_in_shards
from .blur import blurred_squares
from .box import BOX, box
from .dense import DENSE, dense
from .engines import engine_for, engine_for_masks
from .local import LOCAL, local, served
from .masks import MASKS, masked
from .posterior import composite
from .sliding import SLIDING, sliding
from .softmax import floored_sigma
from .tree import TreeSearch, by_tree
from .truncated import NeighbourSearch, truncated


def posterior(z, sigma, source, windows, *, engine="auto", search=None, blur=None):
    """Return the posterior of noisy images over a training set.

    Parameters
    ----------
    z, sigma, source, windows, engine, search : see `compare`
        sigma = 0 is allowed as well.
    blur : Blur, default None
        Blur of the training images along their covariance; ``sigma`` must then be positive and
        equal for all noisy images.

    Returns
    -------
    Posterior

    Raises
    ------
    ImportError
        If ``engine="numba"`` and numba is missing.
    ValueError
        If ``engine="numba"`` and the images are not float32 on the CPU.
    """
    n_values = windows.n_values(z.shape[1:])
    if blur is None:
        sigma = floored_sigma(sigma, z, source)
        result = compare(z, sigma, source, windows, engine, search)
        return composite(result, sigma, n_values, n_total=n_compared(windows, z.shape[1:]))
    if blur.by_window and isinstance(windows, Squares):
        (result,) = blurred(z, sigma, source, windows, blur.gaussian, [blur.bandwidth])
        return composite(result, sigma, n_values)
    filtering = blur.filter(float(sigma[0]))
    blurred_source = filtering.training_set(source, z.dtype)
    query = filtering.query(z)
    level = floored_sigma(sigma, query, blurred_source)
    result = compare(query, level, blurred_source, windows, engine, None)
    return composite(filtering.answer(z, result), sigma, n_values, filtering.log_det)


def blurred(z, sigma, source, windows, gaussian, bandwidths):
    """Compare noisy images through square windows with filters of their own.

    See `blur.blurred_squares`.
    """
    is_sharded = isinstance(source, ShardedTrainingSet)
    function = sharded_blur.blurred_squares if is_sharded else blurred_squares
    return function(z, sigma, source, windows, gaussian, bandwidths)


def compare(z, sigma, source, windows, engine, search):
    """Compare noisy images with a training set by the kernel for their windows.

    All kernels take these parameters, or the first of them, and return a `PerWindow`.

    Parameters
    ----------
    z : Tensor of shape (n, C, H, W), float32 or float64
        Noisy images, as large as the training images unless windows are compared with patches at
        all positions.
    sigma : Tensor of shape (n,), float64
        Noise level of each image, in the units of the images; positive, inf is allowed.
    source : TrainingSet
        Training images; called ``training_set`` in the kernels.
    windows : Whole, Squares, Masks, Centred or SquaresAnywhere
        Windows through which the images are compared.
    engine : {"auto", "numba", "torch", "exact"}
        "numba" is compiled code for float32 on the CPU; "torch" serves every dtype and device;
        "exact" computes the products of `Masks` in float64; "auto" is the fastest of numba and
        torch.
    search : NeighbourSearch, TreeSearch, CellSearch or None
        Search for the training images (Whole) or patches (Squares, Centred, SquaresAnywhere) that
        matter. None: compare all.

    Returns
    -------
    PerWindow
        Results of each window, in row-major order of the windows.
    """
    if isinstance(source, ShardedTrainingSet):
        return sharded.compare(z, sigma, source, windows, engine)
    match windows:
        case Whole() if isinstance(search, NeighbourSearch):
            return truncated(z, sigma, source, search)
        case Whole():
            return dense(z, sigma, source)
        case Squares():
            engine = engine_for(z, engine)
            if isinstance(search, TreeSearch):
                if engine == "numba":
                    return by_tree(z, sigma, source, windows, search)
                search.warn_not_served(z)
            return box(z, sigma, source, windows, engine)
        case Masks():
            return masked(z, sigma, source, windows, engine_for_masks(z, engine, windows))
        case Centred(boundary=None):
            return local(z, sigma, source, windows, engine_for(z, engine))
        case Centred():
            return sliding(z, sigma, source, windows, search)
        case SquaresAnywhere():
            return anywhere(z, sigma, source, windows, search)
    raise TypeError(
        f"windows must be Whole, Squares, Masks, Centred or SquaresAnywhere, got {windows!r}."
    )


def accumulate(z, sigma, source, windows, engine="auto"):
    """Return the sums of the softmax weights over a shard of a training set, and a state.

    Parameters
    ----------
    z, sigma, windows, engine : see `compare`
    source : TrainingSet
        A shard of a `skpspc.support.sharded.ShardedTrainingSet`.

    Returns
    -------
    softmax : Softmax
        To be merged over all shards by `Softmax.merged`. Its log normaliser lacks
        ``source.log_uniform``.
    state : list
        Argument of `compose` for the shard. The state of some windows has four bytes for each pair
        of a noisy and a training image.
    """
    kernel, engine = _kernel(z, source, windows, engine)
    return kernel.accumulate(z, sigma, source, windows, engine)


def compose(z, sigma, source, windows, engine, softmax, state):
    """Return a shard's summand in the posterior means, (n, C, H, W) float64.

    The means are the sums over all shards.

    Parameters
    ----------
    z, sigma, source, windows, engine : see `accumulate`
    softmax : Softmax
        Sums over the weights of all shards.
    state : list
        Result of `accumulate` for the shard.
    """
    kernel, engine = _kernel(z, source, windows, engine)
    return kernel.compose(z, sigma, source, windows, engine, softmax, state)


def _kernel(z, source, windows, engine):
    """Return the `Kernel` that compares all training images through windows, and its engine."""
    check_served_in_shards(windows)
    match windows:
        case Whole():
            return DENSE, None
        case Squares():
            return BOX, engine_for(z, engine)
        case Centred(boundary=None):
            return LOCAL, served(engine_for(z, engine), source, windows)
        case Centred():
            return SLIDING, None
    return MASKS, engine_for_masks(z, engine, windows)
