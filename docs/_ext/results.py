"""Tables, charts and numbers of pages, made from CSV files while the site is built.

``.. results-table:: NAME`` inserts a table, with the command that measured it.
``.. results-chart:: NAME`` inserts a figure, for the light and the dark theme.
``|name|`` inserts a number into a sentence.

Names are those of TABLES, CHARTS and numbers() in the modules of ``_PAGES``.
"""

import os
from pathlib import Path

import benchmark_results
import cluster_results
import evidence_64_results
import evidence_results
import matplotlib.pyplot as plt
import measured
from docutils import nodes
from docutils.parsers.rst import directives
from sphinx.util.docutils import SphinxDirective
from themes import PIXELS_PER_INCH, save_for_themes

_PAGES = (benchmark_results, cluster_results, evidence_results, evidence_64_results)
_TABLES = {name: table for page in _PAGES for name, table in page.TABLES.items()}
_CHARTS = {name: draw for page in _PAGES for name, draw in page.CHARTS.items()}


class ResultsTable(SphinxDirective):
    """A table, and below it its command, threads and date."""

    required_arguments = 1
    option_spec = {"no-source": directives.flag}

    def run(self):
        """Return the nodes of a csv-table."""
        table = _TABLES[self.arguments[0]]
        _depend_on_results(self.env)
        frame = table.make()
        lines = [
            ".. csv-table::",
            "   :header-rows: 1",
            "   :widths: auto",
            "   :class: table-sm",
            "",
        ]
        lines += [f"   {line}" for line in frame.to_csv(index=False).splitlines()]
        if "no-source" not in self.options:
            lines += ["", *measured.source(table.file).splitlines()]
        return self.parse_text_to_nodes("\n".join(lines))


class ResultsChart(SphinxDirective):
    """A figure in two images, of which the theme of the reader shows one."""

    required_arguments = 1
    option_spec = {"alt": directives.unchanged_required}

    def run(self):
        """Draw the figure, and return the nodes of both images."""
        name = self.arguments[0]
        _depend_on_results(self.env)
        folder = Path(self.env.doctreedir) / "charts"
        folder.mkdir(parents=True, exist_ok=True)
        figure = _CHARTS[name]()
        width = round(PIXELS_PER_INCH * figure.get_figwidth())
        images = [
            nodes.image(
                uri="/" + Path(os.path.relpath(path, self.env.srcdir)).as_posix(),
                alt=self.options["alt"],
                width=f"{width}px",
                classes=[f"only-{theme}"],
            )
            for theme, path in zip(
                ("light", "dark"), save_for_themes(figure, folder / name), strict=True
            )
        ]
        plt.close(figure)
        return images


def _depend_on_results(env):
    """Build the page again when a file of results changes."""
    for folder in measured.FOLDERS:
        for path in folder.rglob("*.*"):
            env.note_dependency(str(path))


def _add_numbers(app, config):
    """Define the substitutions."""
    lines = [
        f".. |{name}| replace:: {text}" for page in _PAGES for name, text in page.numbers().items()
    ]
    config.rst_epilog = "\n".join([config.rst_epilog or "", *lines])


def setup(app):
    """Add the directives and the numbers."""
    app.add_directive("results-table", ResultsTable)
    app.add_directive("results-chart", ResultsChart)
    app.connect("config-inited", _add_numbers)
    return {"parallel_read_safe": True}
