"""Check the links within a built site: every file and every place that a page links to is there.

    python docs/check_links.py docs/_build/html

Links to other sites are counted, and checked by ``sphinx -b linkcheck`` where there is internet;
``python docs/check_links.py --online`` tells whether there is.
"""

import sys
import urllib.request
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

_ELSEWHERE = "https://arxiv.org"


class Page(HTMLParser):
    """Links of a page, and the places in it that can be linked to.

    Parameters
    ----------
    path : Path
        An HTML file.
    """

    def __init__(self, path):
        super().__init__()
        self.links, self.places = set(), {"", "top"}
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attrs):
        """Collect the links and the places of one tag."""
        attrs = dict(attrs)
        self.places |= {attrs[name] for name in ("id", "name") if attrs.get(name)}
        self.links |= {attrs[name] for name in ("href", "src") if attrs.get(name)}


def check(root):
    """Links of all pages under a folder.

    Parameters
    ----------
    root : Path

    Returns
    -------
    broken : list of str
        The page and its link.
    counts : dict
        How many pages, links within and links to other sites there are.
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
            known = pages.get(target)
            if not target.is_file() or (known and unquote(parts.fragment) not in known.places):
                broken.append(f"{path.relative_to(root.resolve())}: {link}")
    counts = {"pages": len(pages), "links within": within, "links elsewhere": len(elsewhere)}
    return broken, counts


def _is_page(path):
    """Whether a file is a page: of the theme's own files only the explorer is one."""
    return "_static" not in path.parts or path.name == "explorer.html"


def is_online():
    """Whether another site answers."""
    try:
        with urllib.request.urlopen(_ELSEWHERE, timeout=10):
            return True
    except OSError:
        return False


def main(argument):
    """Check a site, or the network; the exit status."""
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
