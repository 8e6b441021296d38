"""The documentation is current: generated pages, the version, links."""

import re
from pathlib import Path

import pytest

from jobs.settings import renamed
from tools import check_site, reference

ROOT = Path(__file__).parent.parent


@pytest.mark.parametrize("name", reference.PAGES)
def test_a_generated_page_is_current(name):
    page = ROOT / "docs" / name
    assert page.is_file(), f"docs/{name} is missing: run `make reference`"
    assert page.read_text() == reference.PAGES[name](), f"docs/{name} is stale: run `make reference`"


def test_setup_changelog_and_citation_have_the_same_version():
    newest = re.search(
        r"^## \[(\d+\.\d+\.\d+)\] - \d{4}-\d{2}-\d{2}$", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE
    )
    assert newest
    assert re.search(r'version="([^"]+)"', (ROOT / "setup.py").read_text()).group(1) == newest.group(1)
    assert f"\nversion: {newest.group(1)}\n" in (ROOT / "CITATION.cff").read_text()


def test_changelog_lists_every_renamed_setting():
    changes = (ROOT / "CHANGELOG.md").read_text()
    assert [old for old, new in renamed.RENAMED.items() if f"| `{old}` | `{new}` |" not in changes] == []


def test_no_page_of_the_repository_has_a_dead_link():
    assert check_site.markdown_faults(ROOT) == []


def test_the_readme_has_at_most_150_lines():
    assert len((ROOT / "README.md").read_text().splitlines()) <= 150


def test_external_files_and_dead_links_of_a_site_are_reported(tmp_path):
    (tmp_path / "index.html").write_text(
        '<link rel="stylesheet" href="https://example.org/a.css"><img src="gone.png"><a href="here.html#x">x</a>'
        '<link rel="canonical" href="https://example.org/"><a href="https://example.org/">out</a>'
    )
    (tmp_path / "here.html").write_text("")
    assert check_site.site_faults(tmp_path) == [
        "index.html: loads https://example.org/a.css from another host",
        "index.html: refers to gone.png, which is not in the site",
    ]
