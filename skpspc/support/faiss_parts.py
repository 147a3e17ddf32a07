"""What the indexes of FAISS are made of: transforms of points, and an index of what they become."""

from .._optional import load

WORKING = '"Flat", "IVF256,Flat", "PCA32,IVF256,SQ8", "SQ8", "HNSW32"'
# These look at every point of the cells that they visit, and compare it with the decoded code.
_EXHAUSTIVE = {
    "IndexFlat",
    "IndexFlatL2",
    "IndexScalarQuantizer",
    "IndexPQ",
    "IndexIVFFlat",
    "IndexIVFScalarQuantizer",
    "IndexIVFPQ",
}
# Others than Euclidean distances, or with numbers of their own.
_FOREIGN = {
    "NormalizationTransform",
    "ITQTransform",
    "IndexLSH",
    "IndexLattice",
    "IndexIDMap",
    "IndexIDMap2",
}


def made(factory, n_dims):
    """The transforms, a list, and the index that a factory string names; neither is trained.

    Raises
    ------
    ValueError
        For a string that faiss does not know, or that compares points by anything else than their
        Euclidean distances.
    """
    faiss = load("faiss")
    try:
        whole = faiss.index_factory(n_dims, factory)
    except RuntimeError as error:
        reason = str(error).rpartition(": ")[2]
        raise ValueError(
            f"index must be a factory string that faiss knows, such as {WORKING} or, where codes "
            f'do not divide the {n_dims} coordinates, "PCA64,PQ16"; got {factory!r} ({reason}).'
        ) from error
    chain, inner = _unwrapped(faiss, whole)
    _check_euclidean(factory, [*chain, inner])
    for part in (*chain, inner, *_within(faiss, inner)):
        _quieten(faiss, part)
    ivf = faiss.try_extract_index_ivf(inner)
    if ivf is not None:  # cells that are not to be visited are numbered -1
        ivf.nprobe = ivf.nlist
    return chain, inner


def _unwrapped(faiss, index):
    """The transforms before an index, and the index itself."""
    if not isinstance(index, faiss.IndexPreTransform):
        return [], index
    index.own_fields = False
    chain = [faiss.downcast_VectorTransform(index.chain.at(i)) for i in range(index.chain.size())]
    return chain, faiss.downcast_index(index.index)


def _within(faiss, index):
    """What an index asks first, or chooses its cells by."""
    names = ("base_index", "quantizer")
    parts = [getattr(index, name) for name in names if hasattr(index, name)]
    return [faiss.downcast_index(part) for part in parts]


def _check_euclidean(factory, steps):
    """Raise ValueError if any of the parts of an index does not keep Euclidean distances."""
    whitens = any(getattr(step, "eigen_power", 0) for step in steps)
    if whitens or any(type(step).__name__ in _FOREIGN for step in steps):
        raise ValueError(
            f"index={factory!r} does not number points by itself and compare them by their "
            f"Euclidean distances; use one that does, such as {WORKING}."
        )


def _quieten(faiss, part):
    """Keep the learning of centres from writing to the terminal that there are few points."""
    if isinstance(part, faiss.OPQMatrix):
        part.codes = faiss.ProductQuantizer(part.d_out, part.M, 8)  # kept as long as the part
        part.pq = part.codes
    for learns in (part, getattr(part, "pq", part)):
        if hasattr(learns, "cp"):
            learns.cp.min_points_per_centroid = 1


def is_rigorous(chain, inner):
    """Whether the distances of trained parts are lower bounds once errors of codes are subtracted.

    And whether all points are looked at, of the cells that are visited.
    """
    faiss = load("faiss")
    if type(inner).__name__ not in _EXHAUSTIVE or not all(_shortens(faiss, s) for s in chain):
        return False
    quantizers = _within(faiss, inner)
    return all(type(quantizer).__name__.startswith("IndexFlat") for quantizer in quantizers)


def _shortens(faiss, step):
    """Whether a transform never lengthens a distance."""
    if not isinstance(step, faiss.LinearTransform):
        return False
    step.set_is_orthonormal()
    return bool(step.is_orthonormal)


def to_bytes(transform):
    """A transform as an array of bytes."""
    faiss = load("faiss")
    writer = faiss.VectorIOWriter()
    faiss.write_VectorTransform(transform, writer)
    return faiss.vector_to_array(writer.data)


def from_bytes(array):
    """The transform that `to_bytes` was given."""
    faiss = load("faiss")
    reader = faiss.VectorIOReader()
    faiss.copy_array_to_vector(array, reader.data)
    transform = faiss.read_VectorTransform(reader)
    transform.this.disown()  # to the proxy of its true class
    return faiss.downcast_VectorTransform(transform)
