"""Pictures for the light and the dark theme of the pages, from one matplotlib figure."""

import shutil
from contextlib import ExitStack, contextmanager
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.colors import to_rgba_array
from matplotlib.legend import Legend
from matplotlib.text import Text
from matplotlib.transforms import Bbox

# Text and background of pydata-sphinx-theme; for thumbnails a gray that both themes show.
_THEMES = {"light": ("#222832", "#ffffff"), "dark": ("#ced6dd", "#14181e")}
_BETWEEN = ("#808a96", "#808a9600")
_DPI = 200
PIXELS_PER_INCH = 128  # on the page, where there is room: 5.5 inches fill it
_RST = """
.. image:: /{source}
   :alt: {alt}
   :width: {width}px
   :class: sphx-glr-single-img {theme}
"""
_COLOURS = ("color", "facecolor", "edgecolor", "markerfacecolor", "markeredgecolor")


def save_for_themes(figure, path_without_suffix, *, transparent=True):
    """Save a figure twice, with text and lines that fit a light and a dark page.

    Black becomes the theme's colour of text, white its background, and gray a mixture of both.
    Other colours and images stay, and so do artists with path effects: their outline makes them
    legible on images. The figure is not changed.

    Parameters
    ----------
    figure : matplotlib.figure.Figure
    path_without_suffix : str or Path
    transparent : bool, default True
        Leave out the background; otherwise it has the colour of the theme.

    Returns
    -------
    light, dark : Path
        ``<path>-light.png`` and ``<path>-dark.png``.
    """
    paths = [Path(f"{path_without_suffix}-{theme}.png") for theme in _THEMES]
    for path, (ink, paper) in zip(paths, _THEMES.values(), strict=True):
        _save(figure, path, ink, paper, transparent=transparent)
    return tuple(paths)


def scrape(block, block_vars, gallery_conf):
    """Return reST that shows the open figures in the colours of the reader's theme.

    sphinx-gallery calls this function after each block of code. The thumbnail of an example is the
    figure with number ``sphinx_gallery_thumbnail_number``, cropped to the panels listed in
    ``sphinx_gallery_thumbnail_axes``; text on it is gray, legible on both themes.
    """
    paths, conf = block_vars["image_path_iterator"], block_vars["file_conf"]
    rst = []
    for number in plt.get_fignums():
        figure, path = plt.figure(number), Path(paths.next())
        light, dark = save_for_themes(figure, path.with_suffix(""))
        if len(paths) == conf.get("thumbnail_number", 1):
            _save_thumbnail(figure, path, conf.get("thumbnail_axes"))
        else:
            shutil.copy(light, path)  # sphinx-gallery insists on a file
        for picture, theme in ((light, "only-light"), (dark, "only-dark")):
            source = picture.relative_to(gallery_conf["src_dir"]).as_posix()
            width = round(PIXELS_PER_INCH * figure.get_figwidth())
            alt = _titles(figure) or path.stem
            rst.append(_RST.format(source=source, alt=alt, width=width, theme=theme))
    plt.close("all")
    return "".join(rst)


def _save_thumbnail(figure, path, panels):
    """Save panels of a figure without text, legends and grids: they are illegible in a thumbnail.

    The figure is changed: lines are drawn at twice their width.
    """
    panels = figure.axes if panels is None else [figure.axes[panel] for panel in panels]
    for ax in panels:
        ax.grid(False)
        for line in ax.lines:
            line.set(linewidth=2 * line.get_linewidth(), markersize=2 * line.get_markersize())
    for legend in figure.findobj(Legend):
        legend.set_visible(False)
    figure.draw_without_rendering()  # the layout, without legends
    box = Bbox.union([ax.get_window_extent() for ax in panels])
    box = box.padded(0.02 * figure.dpi).transformed(figure.dpi_scale_trans.inverted())
    _save(figure, path, *_BETWEEN, transparent=True, bbox_inches=box)


def _save(figure, path, ink, paper, **options):
    with _recoloured(figure, ink, paper):
        figure.savefig(path, dpi=_DPI, **options)


@contextmanager
def _recoloured(figure, ink, paper):
    """Replace black, gray and white in a figure for a while."""
    figure.draw_without_rendering()  # ticks exist from here on
    with ExitStack() as undo:
        for artist in _artists(figure):
            has = [name for name in _COLOURS if hasattr(artist, f"get_{name}")]
            # All are read before one is set: the colour of markers follows that of their line.
            old = {name: getattr(artist, f"get_{name}")() for name in has}
            for name, colour in old.items():
                new = _between(colour, ink, paper)
                if len(new):
                    setter = getattr(artist, f"set_{name}")
                    undo.callback(setter, tuple(colour) if np.ndim(colour) == 1 else colour)
                    setter(tuple(new[0]) if len(new) == 1 else new)  # lines compare tuples alone
        yield


def _artists(figure):
    """Yield artists of one colour that lie on the background, and boxes and arrows of texts."""
    for artist in figure.findobj(include_self=False):
        if artist.get_path_effects():  # outlined, to be seen on any image
            continue
        if isinstance(artist, Text):
            yield from filter(None, (artist.get_bbox_patch(), getattr(artist, "arrow_patch", None)))
        if getattr(artist, "get_array", lambda: None)() is None:  # otherwise a colour map paints it
            yield artist


def _between(colours, ink, paper):
    """Return colours (n, 4) where black is ``ink``, white ``paper``, and gray in between."""
    colours = to_rgba_array(colours)
    ink, paper = to_rgba_array([ink, paper])
    gray = np.ptp(colours[:, :3], axis=1) < 0.02
    level = colours[gray, :1]
    mixed = (1 - level) * ink + level * paper
    mixed[:, 3] *= colours[gray, 3]
    colours[gray] = mixed
    return colours


def _titles(figure):
    """Return the texts of a figure and the titles of its axes, one after another."""
    titles = [ax.get_title(loc) for ax in figure.axes for loc in ("left", "center", "right")]
    texts = [text.get_text() for text in figure.texts] + titles
    return ", ".join(text.replace("\n", " ") for text in texts if text)
