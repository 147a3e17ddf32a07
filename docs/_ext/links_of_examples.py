"""Links from the estimators that an example shows to their pages."""

import os
from pathlib import Path

_EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


def link_estimators(gallery_conf, fname):
    """Say where the pages are, as seen from that of an example; sphinx-gallery calls it before.

    Parameters
    ----------
    gallery_conf : dict
    fname : str
        Name of the example's file, without its folder.
    """
    path = next(_EXAMPLES.rglob(Path(fname).name))
    depth = len(path.relative_to(_EXAMPLES).parts)
    os.environ["SKPSPC_DOCS_URL"] = "/".join([".."] * depth)
