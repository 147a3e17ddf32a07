"""Training images in shards, on the workers of a Dask cluster.

`fit` of a denoiser takes a dask array, whose blocks stay on the workers that hold them. Noisy
images travel to the blocks, and sums over the images come back.
"""

from .cluster import TOPIC

__all__ = ["calls"]


def calls(client):
    """Return the logged calls of blocks of training images.

    A denoiser that was fitted on a dask array calls one or two functions of every block for each
    batch of noisy images. A key that occurs twice was computed again, for example because its
    worker was lost.

    Parameters
    ----------
    client : distributed.Client
        Client that was connected when the denoiser was fitted.

    Returns
    -------
    list of dict
        ``"key"``, the name of the task, and ``"worker"``, the address of the worker, both str, in
        the order of the calls. Dask keeps the last 1,000
        (``distributed.admin.low-level-log-length``).
    """
    return [event for _, event in client.get_events(TOPIC) or ()]
