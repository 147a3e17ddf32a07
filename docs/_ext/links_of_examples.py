"""Links from displayed estimators in examples to their pages of the API."""

import os
from pathlib import Path

_EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


def link_estimators(gallery_conf, fname):
    """Set SKPSPC_DOCS_URL to the root of the site, relative to the page of an example.

    sphinx-gallery calls this function before it runs an example.

    Parameters
    ----------
    gallery_conf : dict
    fname : str
        Name of the example's file, without its folder.
    """
    path = next(_EXAMPLES.rglob(Path(fname).name))
    depth = len(path.relative_to(_EXAMPLES).parts)
    os.environ["SKPSPC_DOCS_URL"] = "/".join([".."] * depth)
