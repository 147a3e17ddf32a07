"""The client of a Dask cluster, and the versions of its workers."""

import sys
from importlib import metadata

from .._optional import load
from .._warnings import warn
from .cluster import address_of

# Packages whose versions must be equal on all workers, and those whose versions should be.
_MUST_AGREE, _SHOULD_AGREE = ("skpspc",), ("numpy", "torch", "numba")


def current_client():
    """Return the client of the cluster that is connected; raise ValueError without one.

    Its workers, and those that join later, can run this package and count the bytes of tensors.
    """
    distributed = load("distributed")
    try:
        client = distributed.Client.current()
    except ValueError as error:
        raise ValueError(
            "X is a dask array, and no cluster is connected; start one with "
            "client = dask.distributed.Client(), or pass X.compute()."
        ) from error
    check_workers(client)
    from .sizes import TensorSizes  # a class of Dask

    client.register_plugin(TensorSizes())
    return client


def check_workers(client):
    """Raise if workers lack the package, or have another version of it or of Python."""
    packages = [*_MUST_AGREE, *_SHOULD_AGREE]
    workers = client.get_versions(packages=packages)["workers"]
    if not workers:
        raise RuntimeError(
            f"the cluster {address_of(client)} has no workers; start some, for example with "
            "cluster.scale(2)."
        )
    for name in packages:
        ours = _version(name)
        others = {
            address: versions["packages"].get(name)
            for address, versions in workers.items()
            if versions["packages"].get(name) != ours
        }
        if not others:
            continue
        where = ", ".join(sorted(others)[:3])
        n = f"{len(others)} of {len(workers)} workers ({where})"
        missing = [version for version in others.values() if version is None]
        if missing and name in _MUST_AGREE:
            raise ImportError(
                f"{name} is not installed on {n}; install {name} {ours} there, for example with "
                "distributed.PipInstall."
            )
        theirs = sorted(map(str, set(others.values())))
        message = f"{name} is {ours} here and {', '.join(theirs)} on {n}"
        if name in _MUST_AGREE:
            raise RuntimeError(f"{message}; install one version everywhere.")
        warn(f"{message}: results may differ in the last digits.")
    here = "{}.{}".format(*sys.version_info)
    for address, versions in workers.items():
        there = ".".join(versions["host"]["python"].split(".")[:2])
        if there != here:
            raise RuntimeError(
                f"Python is {here} here and {there} on {address}; use one version everywhere."
            )


def _version(package):
    """Return the version of an installed package, or None."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None
