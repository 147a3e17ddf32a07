"""Check that the files and anchors exist to which the pages of a built site link.

    python docs/check_links.py docs/_build/html

Links to other sites are only counted. ``sphinx -b linkcheck`` checks them if there is internet;
the exit status of ``python docs/check_links.py --online`` is 0 if there is.
"""

import sys
import urllib.request
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

_ELSEWHERE = "https://arxiv.org"


class Page(HTMLParser):
    """Links and anchors of a page.

    Parameters
    ----------
    path : Path
        An HTML file.
    """

    def __init__(self, path):
        super().__init__()
        self.links, self.anchors = set(), {"", "top"}
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attrs):
        """Collect the links and the anchors of one tag."""
        attrs = dict(attrs)
        self.anchors |= {attrs[name] for name in ("id", "name") if attrs.get(name)}
        self.links |= {attrs[name] for name in ("href", "src") if attrs.get(name)}


def check(root):
    """Return the broken links of all pages under a folder, and counts.

    Parameters
    ----------
    root : Path

    Returns
    -------
    broken : list of str
        "page: link" for each broken link.
    counts : dict
        Numbers of pages, of links within the site and of links to other sites.
    """
    pages = {path.resolve(): Page(path) for path in sorted(root.rglob("*.html")) if _is_page(path)}
    broken, within, elsewhere = [], 0, set()
    for path, page in pages.items():
        for link in sorted(page.links):
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                elsewhere.add(link)
                continue
            within += 1
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            if target.is_dir():
                target /= "index.html"
            linked = pages.get(target)
            if not target.is_file() or (linked and unquote(parts.fragment) not in linked.anchors):
                broken.append(f"{path.relative_to(root.resolve())}: {link}")
    counts = {"pages": len(pages), "links within": within, "links elsewhere": len(elsewhere)}
    return broken, counts


def _is_page(path):
    """Return whether a file is a page; in the folder _static only the explorer is one."""
    return "_static" not in path.parts or path.name == "explorer.html"


def is_online():
    """Return whether another site answers."""
    try:
        with urllib.request.urlopen(_ELSEWHERE, timeout=10):
            return True
    except OSError:
        return False


def main(argument):
    """Check a site, or the network, and return the exit status."""
    if argument == "--online":
        print(f"{_ELSEWHERE} answers" if (online := is_online()) else "no internet")
        return int(not online)
    broken, counts = check(Path(argument))
    for line in broken:
        print(f"broken link: {line}")
    print(", ".join(f"{count} {what}" for what, count in counts.items()), f"{len(broken)} broken")
    return int(bool(broken) or not counts["pages"])


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
