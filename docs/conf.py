"""Settings of the documentation: ``python -m sphinx -W -b html docs docs/_build/html``.

Nothing is loaded from another site, neither while building nor while reading.
"""

import os
import sys
from datetime import date
from pathlib import Path

import skpspc

# The same pages on every machine: progress bars are not part of them.
os.environ.setdefault("TQDM_DISABLE", "1")
# Beside this file are the extension explorer.build, and what sphinx-gallery calls by name.
sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parent / "_ext")]

project = "skpspc"
author = "The skpspc developers"
copyright = f"{date.today().year}, {author}"
version = release = skpspc.__version__

extensions = [
    "explorer.build",
    "numpydoc",
    "results",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.mathjax",
    "sphinx-mathjax-offline",
    "sphinx_copybutton",
    "sphinx_design",
    "sphinx_gallery.gen_gallery",
    "stacked",
]

exclude_patterns = ["_build", "reproduction"]
templates_path = ["_templates"]
default_role = "autolink"  # `PSPCDenoiser` in a docstring is a link to its page

# ------------------------------------------------------------------------------------- API

autosummary_generate = True
autosummary_ignore_module_all = False  # a module's page lists its __all__
autodoc_typehints = "none"
autodoc_member_order = "bysource"
numpydoc_show_class_members = False  # the template of a class does it
maximum_signature_line_length = 79  # a longer one has a parameter per line
toc_object_entries_show_parents = "hide"  # `denoise()` fits beside the page

# --------------------------------------------------------------------------------- gallery

sphinx_gallery_conf = {
    "examples_dirs": "../examples",
    "gallery_dirs": "gallery",
    "filename_pattern": r"plot_",
    "subsection_order": [
        f"../examples/{name}"
        for name in (
            "basics",
            "denoisers",
            "memorisation",
            "inspection",
            "restoration",
            "data",
        )
    ],
    "within_subsection_order": "gallery_order.GalleryOrder",
    "backreferences_dir": "api/backreferences",
    "doc_module": ("skpspc",),
    "image_scrapers": ("themes.scrape",),
    "reset_modules": ("matplotlib", "links_of_examples.link_estimators"),
    "thumbnail_size": (480, 336),
    "remove_config_comments": True,
    "show_signature": False,
    "write_computation_times": False,  # its pages load scripts from other sites
}

# ----------------------------------------------------------------------------------- pages

html_theme = "pydata_sphinx_theme"
html_title = "skpspc"
html_static_path = ["_static"]
html_css_files = ["skpspc.css", "gallery.css"]
html_show_sourcelink = False
html_sidebars = {"*": []}  # pages of sections have one
html_theme_options = {
    "logo": {"text": "skpspc"},
    "navbar_align": "left",
    "navbar_end": ["theme-switcher"],
    "header_links_before_dropdown": 7,
    "navigation_with_keys": False,
    "secondary_sidebar_items": ["page-toc"],
    "footer_start": ["copyright"],
    "footer_end": [],
    "pygments_light_style": "a11y-high-contrast-light",
    "pygments_dark_style": "a11y-high-contrast-dark",
}
html_context = {"default_mode": "auto"}

copybutton_prompt_text = r">>> |\.\.\. |\$ "
copybutton_prompt_is_regexp = True

# ----------------------------------------------------------------------------------- links

# Links within the site are checked by check_links.py; this is for `-b linkcheck`, where there is
# internet.
linkcheck_timeout = 20
linkcheck_retries = 2
linkcheck_anchors = False
linkcheck_report_timeouts_as_broken = False
