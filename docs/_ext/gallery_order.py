"""Order of the examples in each section of the gallery, for readers who start at the top."""

from pathlib import Path

ORDER = (
    # examples/basics
    "plot_quickstart",
    "plot_denoise_photograph",
    "plot_single_photograph",
    "plot_auto",
    # examples/denoisers
    "plot_patch_size_search",
    "plot_flexible_windows",
    "plot_bandwidth",
    "plot_soft_patches",
    # examples/memorisation
    "plot_memorisation",
    "plot_memorisation_edge",
    "plot_memorisation_risk",
    "plot_leave_one_out",
    # examples/inspection
    "plot_attribution",
    "plot_network_sensitivity",
    "plot_local_equivalence",
    "plot_error_curves",
    # examples/restoration
    "plot_inverse_problems",
    "plot_gradients",
    "plot_error_estimate",
    "plot_other_libraries",
    # examples/data
    "plot_class_conditional",
    "plot_signals",
    "plot_error_bound",
    "plot_faiss",
)


class GalleryOrder:
    """Sort key of the examples of one section, in the form that sphinx-gallery calls.

    Parameters
    ----------
    src_dir : str
        Folder of the section.
    """

    def __init__(self, src_dir):
        self.src_dir = src_dir

    def __call__(self, filename):
        """Return the position of an example in `ORDER`; raise if it is not listed."""
        name = Path(filename).stem
        if name not in ORDER:
            raise ValueError(f"'{filename}' is not in ORDER of docs/_ext/gallery_order.py; add it.")
        return ORDER.index(name)
