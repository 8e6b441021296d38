"""Properties of ids: every integer and every text has one id inside, in range, and the way back is unique."""

from __future__ import annotations

import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st

from contracts.entity_ids import MAX_ID, MAX_STABLE_ID, internal_id, stable_id
from jobs.ingest.ids import MADE, stable_ids

texts = st.text(st.characters(codec="utf-8"), max_size=40)
quick = settings(derandomize=True, deadline=None, max_examples=100)


@quick
@given(st.integers(0, MAX_ID))
def test_integer_is_its_own_id_as_number_and_as_text(number):
    assert internal_id(number, "integer") == internal_id(str(number), "integer") == number


@quick
@given(texts)
def test_accepted_integer_text_is_the_only_spelling_of_its_id(text):
    number = internal_id(text, "integer")
    assert number is None or (str(number) == text and 0 <= number <= MAX_ID)


@quick
@given(st.integers().filter(lambda n: not 0 <= n <= MAX_ID))
def test_integer_out_of_range_has_no_id(number):
    assert internal_id(number, "integer") is None


@quick
@given(st.lists(texts, max_size=30))
def test_text_ids_are_in_range_and_equal_for_one_text_and_for_a_column(some):
    ids = stable_ids(pa.array(some, pa.string()))
    assert ids.tolist() == [stable_id(text) for text in some] == [internal_id(text, "text") for text in some]
    assert all(0 <= number <= MAX_STABLE_ID < MADE for number in ids.tolist())
    assert len(set(ids.tolist())) == len(set(some)), "no collision among so few"
