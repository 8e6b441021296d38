"""MkDocs hooks: add Mermaid's script, which `make docs` downloads from npm, to the built site."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mkdocs.config.defaults import MkDocsConfig
    from mkdocs.structure.files import Files

SCRIPT = Path(__file__).parents[1] / ".venv" / "docs" / "mermaid.min.js"


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Return the site's files with `javascripts/mermaid.min.js` among them."""
    from mkdocs.structure.files import File

    files.append(File.generated(config, "javascripts/mermaid.min.js", abs_src_path=str(SCRIPT)))
    return files
