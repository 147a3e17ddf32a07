"""Heads of columns in the cells of stacked tables, which a phone shows without their first row."""

from docutils import nodes


def label_cells(_app, doctree):
    """Begin the cells of stacked tables of three and more columns with the heads of their columns.

    The heads have the class ``stacked-head``, which only a phone shows.
    """
    for table in doctree.findall(nodes.table):
        if "stacked" not in table["classes"]:
            continue
        first = next(table.findall(nodes.thead)).next_node(nodes.row)
        heads = [entry.astext() for entry in first]
        if len(heads) < 3:
            continue
        for row in next(table.findall(nodes.tbody)).findall(nodes.row):
            for entry, head in list(zip(row, heads, strict=True))[1:]:
                entry.insert(0, nodes.paragraph("", head, classes=["stacked-head"]))


def setup(app):
    """Connect to Sphinx."""
    app.connect("doctree-read", label_cells)
    return {"parallel_read_safe": True}
