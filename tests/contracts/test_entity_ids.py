"""External ids and ids inside."""

import pytest

from contracts.entity_ids import MAX_ID, internal_id, stable_id


def test_the_hash_of_a_text_never_changes():
    assert stable_id("b10bbbfc-cf9e-42e0-be17-e2c3e1d2600d") == 2519265336673540149
    assert stable_id("") == 4119008146064567469


def test_the_encoding_of_accents_is_part_of_an_id():
    assert stable_id("Beyonc\u00e9") != stable_id("Beyonce\u0301")  # ids of a source are kept byte for byte
    assert stable_id("Beyonc\u00e9") not in (stable_id("Beyonce"), stable_id("beyonc\u00e9"))


@pytest.mark.parametrize(
    ("external", "expected"),
    [
        ("0", 0),
        (17, 17),
        (str(MAX_ID), MAX_ID),
        (str(MAX_ID + 1), None),
        ("007", None),
        ("-1", None),
        (-1, None),
        ("1.0", None),
        (" 1", None),
        ("", None),
        ("²", None),
        ("track", None),
    ],
)
def test_integer_ids_have_one_spelling(external, expected):
    assert internal_id(external, "integer") == expected


def test_text_ids_are_hashed_as_they_are():
    assert internal_id("17", "text") == stable_id("17")
    assert internal_id("a", "text") != internal_id("a ", "text")
