"""Check the built documentation and the Markdown pages of the repository.

`python -m tools.check_site SITE` checks that no page of the site loads anything from another host, that every file to
which a page refers exists, and that every relative link of the repository's own Markdown pages (README, CONTRIBUTING
...) leads to a file. Links to other hosts are not followed. Prints one line per fault and exits with 1 if there is one.
"""

from __future__ import annotations

import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

ROOT = Path(__file__).parents[1]
LINK = re.compile(r"!?\[[^\]]*\]\(\s*<?([^)\s>]+)>?[^)]*\)")
CODE = re.compile(r"```.*?```|`[^`\n]*`", re.DOTALL)
LOADS = {"img": "src", "script": "src", "iframe": "src", "source": "src", "video": "src", "link": "href"}
# Links that a browser does not load by itself.
NOT_LOADED = {"canonical", "prev", "next", "alternate", "edit"}


class References(HTMLParser):
    """Collect the addresses that a page loads and the addresses to which it links."""

    def __init__(self) -> None:
        """Start without references."""
        super().__init__()
        self.loads: list[str] = []
        self.links: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Collect the references of one element."""
        values = dict(attrs)
        name = LOADS.get(tag)
        if name and values.get(name) and not set((values.get("rel") or "").split()) & NOT_LOADED:
            self.loads.append(str(values[name]))
        elif tag == "a" and values.get("href"):
            self.links.append(str(values["href"]))


def site_faults(site: Path) -> list[str]:
    """Return one line for each page that loads from another host or refers to a file that is absent."""
    faults = []
    for page in sorted(site.rglob("*.html")):
        references = References()
        references.feed(page.read_text())
        name = page.relative_to(site)
        for address in references.loads:
            if urlsplit(address).scheme in ("http", "https") or address.startswith("//"):
                faults.append(f"{name}: loads {address} from another host")
        for address in [*references.loads, *references.links]:
            if _is_absent(page.parent, address, site):
                faults.append(f"{name}: refers to {address}, which is not in the site")
    return faults


def markdown_faults(root: Path) -> list[str]:
    """Return one line for each relative link in a tracked Markdown page outside docs/ that leads to no file."""
    listing = subprocess.run(["git", "ls-files", "*.md"], cwd=root, capture_output=True, text=True, check=True).stdout
    faults = []
    for file in listing.split():
        if file.startswith("docs/"):
            continue  # MkDocs checks these
        page = root / file
        for address in LINK.findall(CODE.sub("", page.read_text())):
            if _is_absent(page.parent, address, root):
                faults.append(f"{file}: links to {address}, which does not exist")
    return faults


def _is_absent(folder: Path, address: str, top: Path) -> bool:
    """Return whether a relative address leads to no file; addresses of other hosts are not checked."""
    parts = urlsplit(address)
    if parts.scheme or parts.netloc or not parts.path:
        return False
    path = unquote(parts.path)
    target = top / path.lstrip("/") if path.startswith("/") else folder / path
    return not target.exists()


def main() -> int:
    """Print every fault; return the exit code."""
    faults = [*site_faults(Path(sys.argv[1])), *markdown_faults(ROOT)]
    for fault in faults:
        print(f"docs: {fault}", file=sys.stderr)
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
