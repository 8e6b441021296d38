"""Lines and edits of the block list, and the sources that are files."""

from __future__ import annotations

import pytest

from contracts.errors import BadArgument
from serving.block.entries import BlockEntry, BlockList, Collector, added, make_entry, parse, removed
from serving.block.sources import BlockFile, replace_all


@pytest.mark.parametrize(
    ("line", "why"),
    [
        (b"{", "not JSON"),
        (b"\xff", "not JSON"),
        (b"[]", "not a JSON object"),
        (b'{"id": "1"}', "kind: None is not track, artist or album"),
        (b'{"kind": "playlist", "id": "1"}', "kind: 'playlist'"),
        (b'{"kind": ["track"], "id": "1"}', "kind: "),
        (b'{"kind": "track"}', "id: None"),
        (b'{"kind": "track", "id": ""}', "id: ''"),
        (b'{"kind": "track", "id": true}', "id: True"),
        (b'{"kind": "track", "id": -1}', "id: -1"),
        (b'{"kind": "track", "id": "1", "countries": "DE"}', "countries: 'DE' is not a list"),
        (b'{"kind": "track", "id": "1", "countries": ""}', "countries: '' is not a list"),
        (b'{"kind": "track", "id": "1", "countries": ["QQ"]}', "countries: 'QQ' is not a country code"),
        (b'{"kind": "track", "id": "1", "countries": ["de"]}', "countries: 'de' is not a country code"),
        (b'{"kind": "track", "id": "1", "country": "DE"}', "unknown field 'country'"),
    ],
)
def test_an_invalid_line_is_named_and_the_rest_applies(line, why):
    collector = Collector("block_list.jsonl")
    collector.add_lines([b'{"kind": "track", "id": "7"}\n', line + b"\n", b"\n", b'{"kind": "album", "id": 8}\n'])
    assert collector.n_bad == 1
    assert collector.bad_lines[0].startswith(f"block_list.jsonl:2: {why}")
    block_list = BlockList.merge("1", [collector])
    assert (block_list.sets("track", None), block_list.sets("album", "DE")) == ([{"7"}], [{"8"}])
    assert block_list.n_entries == 2


def test_an_entry_round_trips_through_its_line():
    entry = BlockEntry("artist", "a/b é", frozenset({"FR", "DE"}), "takedown 12", "2026-11-28T10:00:00+00:00")
    assert parse(entry.line()) == entry
    with pytest.raises(ValueError, match="at: 'today' is not a time"):
        parse(b'{"kind": "track", "id": "1", "at": "today"}')
    with pytest.raises(BadArgument, match="countries: 'XX' is not a country code"):
        make_entry("track", "1", ["XX"])


def test_adding_never_unblocks():
    everywhere, german = make_entry("track", "1"), make_entry("track", "1", ["DE"])
    french = make_entry("track", "1", ["FR"], "new reason")
    assert added({everywhere.key: everywhere}, [german]) == {}
    assert added({german.key: german}, [german]) == {}
    both = added({german.key: german}, [french])[german.key]
    assert (both.countries, both.reason) == ({"DE", "FR"}, "new reason")
    assert added({german.key: german}, [french, everywhere])[german.key].countries == frozenset()


def test_removing_a_country_keeps_the_others():
    both, everywhere = make_entry("track", "1", ["DE", "FR"]), make_entry("track", "2")
    existing = {both.key: both, everywhere.key: everywhere}
    assert removed(existing, [both.key], {"DE"})[both.key].countries == {"FR"}
    assert removed(existing, [both.key], {"DE", "FR"}) == {both.key: None}
    assert removed(existing, [both.key], {"IT"}) == {}
    assert removed(existing, [both.key, ("track", "9")], frozenset()) == {both.key: None}
    with pytest.raises(BadArgument, match="track 2 is blocked everywhere"):
        removed(existing, [everywhere.key], {"DE"})


def test_countries_add_to_what_is_blocked_everywhere():
    collector = Collector("x")
    collector.add("track", "1", ())
    collector.add("track", "2", ["DE"])
    block_list = BlockList.merge("1", [collector, Collector("y")])
    assert set().union(*block_list.sets("track", "DE")) == {"1", "2"}
    assert set().union(*block_list.sets("track", "FR")) == {"1"}
    assert set().union(*block_list.sets("track", None)) == {"1"}


def test_an_edit_of_a_file_keeps_its_bad_lines(tmp_path):
    file = BlockFile(tmp_path / "block_list.jsonl")
    file.path.write_bytes(b'{"kind": "trak", "id": "1"}\n{"kind": "track", "id": "2"}')
    new = make_entry("album", "3")
    file.edit([new.key], lambda existing: added(existing, [new]))
    assert file.path.read_bytes().splitlines()[-1] == b'{"kind": "trak", "id": "1"}'
    assert set(file.entries()) == {("track", "2"), ("album", "3")}


def test_replacing_a_list_keeps_the_entries_that_stay(tmp_path):
    file = BlockFile(tmp_path / "unavailable_tracks.jsonl")
    old = {str(i): BlockEntry("track", str(i), at="2026-11-01T00:00:00+00:00") for i in range(3)}
    assert replace_all(file, {entry.key: entry for entry in old.values()}) == (3, 0)
    new = [BlockEntry("track", str(i), at="2026-11-02T00:00:00+00:00") for i in (1, 2, 3)]
    assert replace_all(file, {entry.key: entry for entry in new}) == (1, 1)
    assert {key[1]: entry.at[:10] for key, entry in file.entries().items()} == {
        "1": "2026-11-01",
        "2": "2026-11-01",
        "3": "2026-11-02",
    }
    before = file.version()
    assert replace_all(file, {entry.key: entry for entry in new}) == (0, 0)
    assert file.version() == before
