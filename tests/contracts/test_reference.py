"""The reference page of the tables: it is generated from the contracts and must be up to date."""

import os
from pathlib import Path

from contracts.expectations import reference_markdown

PAGE = Path(__file__).parents[2] / "contracts" / "README.md"


def test_the_page_is_up_to_date():
    if os.environ.get("UPDATE_GOLDEN"):
        PAGE.write_text(reference_markdown())
    assert PAGE.read_text() == reference_markdown(), "run UPDATE_GOLDEN=1 pytest tests/contracts/test_reference.py"
