"""The reference page of the tables is made from the contracts; this notices when it was not made again."""

import os
from pathlib import Path

from contracts.expectations import reference_markdown

PAGE = Path(__file__).parents[2] / "contracts" / "README.md"


def test_the_page_is_what_the_contracts_say():
    if os.environ.get("UPDATE_GOLDEN"):
        PAGE.write_text(reference_markdown())
    assert PAGE.read_text() == reference_markdown(), "run UPDATE_GOLDEN=1 pytest tests/contracts/test_reference.py"
