"""Test that the generated page of the DAGs is current."""

import os

from tools.reference_dags import PAGE, page


def test_the_page_of_the_dags_is_current(bag):
    text = page(bag.dags)
    if os.environ.get("UPDATE_GOLDEN"):
        PAGE.parent.mkdir(parents=True, exist_ok=True)
        PAGE.write_text(text)
    assert PAGE.read_text() == text, "docs/reference/dags.md is stale; run `make reference`"
