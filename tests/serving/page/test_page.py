"""The web page in a real browser: keyboard use, no requests to other hosts, names escaped as text."""

from __future__ import annotations

from pathlib import Path

import pytest

import serving
from contracts.demographics import MAX_AGE, MIN_AGE
from jobs.release import bundle
from jobs.release.cold_start import bundle as cold_start_bundle
from tests.helpers import release_keys, small_week, source_ids
from tests.helpers.browser import Browser, chromium
from tests.helpers.live import Live

TRACKS = "[...document.querySelectorAll('#tracks b')].map(it => it.textContent)"
ANNOUNCEMENT = "document.getElementById('announcement').textContent"
FOCUS = "(document.activeElement.dataset.act || '') + (document.activeElement.dataset.place || '')"


@pytest.fixture(scope="module")
def chromium_path() -> str:
    path = chromium()
    if not path:
        pytest.skip("Chromium is not installed: the page cannot be tested")
    return path


@pytest.fixture
def browser(chromium_path, tmp_path):
    browser = Browser(chromium_path, tmp_path / "browser")
    yield browser
    browser.close()


def titles(live, listener: dict) -> list[str]:
    response = live.lists(listener, k=15)
    return [track["title"] or f"Track {track['track_id']}" for track in response["tracks"]]


def test_first_day_can_be_entered_with_the_keyboard_alone(live, browser):
    browser.open(f"http://127.0.0.1:{live.port}/")
    browser.wait(TRACKS, titles(live, {}))
    browser.tab_to("it.id === 'country'")
    browser.press("F")  # France is the only country with this initial
    # The announcement shows that the response to a key is displayed. The lists alone do not: they are very similar.
    browser.wait(f"{ANNOUNCEMENT}.startsWith('Country changed. First now: ')")
    assert browser.run(TRACKS) == titles(live, {"country": "FR"})
    browser.tab_to("it.id === 'age'")
    for digit in "23":
        browser.press(digit)
    browser.tab_to("it.closest('#artists') !== null")
    browser.press(" ")
    day = {"country": "FR", "age": 23, "onboarding": {"artists": [1]}}
    browser.wait(f"{ANNOUNCEMENT}.includes('Ada picked. First now: ')")
    assert browser.run(TRACKS) == titles(live, day)
    assert browser.run("document.activeElement.getAttribute('aria-pressed')") == "true"
    top_signals = "[...document.querySelectorAll('#signals span')].map(it => it.textContent)"
    expected = [reason["signal"] for reason in live.lists(day, explain=True)["reasons"]["top_signals"]]
    labels = {"country": "France", "age": "age 23", "onboarding.artists": "Ada"}
    assert browser.run(top_signals) == [labels[signal] for signal in expected]
    browser.tab_to("it.dataset.act === 'bans'")
    first = titles(live, day)[0]
    browser.press("Enter")
    browser.wait(f"{ANNOUNCEMENT}.startsWith('{first} banned. First now: ')")
    assert first not in browser.run(TRACKS)
    assert browser.run(FOCUS) == "bans0"
    banned = next(track["track_id"] for track in live.lists(day, k=15)["tracks"])
    assert browser.run(TRACKS) == titles(live, {**day, "bans": {"tracks": [banned]}})
    browser.tab_to("it.id === 'reset'")
    browser.press("Enter")
    browser.wait(f"{ANNOUNCEMENT}.startsWith('Started again. First now: ')")
    assert browser.run(TRACKS) == titles(live, {})
    assert browser.run("document.getElementById('error').hidden")


def test_clicks_change_list_segment_carousel_and_reasons(live, browser):
    browser.open(f"http://127.0.0.1:{live.port}/")
    browser.wait(TRACKS, titles(live, {}))
    _, _, carousel = live.call("/v1/carousels", {"listener": {"country": "BR"}, "n_nearest_tracks": 2})
    browser.run(
        "(it => { it.value = 'BR'; it.dispatchEvent(new Event('change')) })(document.getElementById('country'))"
    )
    browser.wait(TRACKS, titles(live, {"country": "BR"}))
    reason = live.lists({"country": "BR"})["reasons"]["text"]
    browser.wait("document.getElementById('reason').textContent", reason)
    playlist_ids = "[...document.querySelectorAll('#carousel p')].map(it => it.textContent.match(/\\d+/)[0])"
    browser.wait(playlist_ids, [playlist["playlist_id"] for playlist in carousel["playlists"]])
    browser.run("document.querySelector('#tracks [data-act=streams]').click()")
    browser.wait("document.querySelectorAll('#day li svg').length", 1)
    browser.wait("document.querySelector('#tracks [data-act=streams]').getAttribute('aria-pressed')", "true")
    browser.run("document.querySelector('#day button').click()")
    browser.wait("document.querySelectorAll('#day li svg').length", 0)


@pytest.fixture(scope="module")
def live_with_large_ids(tmp_path_factory):
    """Service with a release whose ids are integers of 63 bits."""
    context = small_week.context_at(tmp_path_factory.mktemp("large") / "home")
    small_week.fill(context)
    source_ids.change_ids(context, source_ids.as_large_integer, "integer")
    folder, _ = bundle.build(context, cold_start_bundle)
    release_keys.promote(context.home, folder.name)
    service = Live(context.home)
    yield service
    service.stop()


def test_picked_artist_with_a_63_bit_id_changes_the_list(live_with_large_ids, browser):
    live = live_with_large_ids
    browser.open(f"http://127.0.0.1:{live.port}/")
    browser.wait(TRACKS, titles(live, {}))
    browser.run("document.querySelector('#artists button').click()")
    browser.wait(f"{ANNOUNCEMENT}.startsWith('Ada picked. First now: ')")
    assert browser.run(TRACKS) == titles(live, {"onboarding": {"artists": [source_ids.as_large_integer("artist", 1)]}})
    assert browser.run("document.querySelector('#signals span').textContent") == "Ada"
    browser.run("document.querySelector('#tracks [data-act=favourites]').click()")
    browser.wait("document.querySelector('#tracks [data-act=favourites]').getAttribute('aria-pressed')", "true")
    assert browser.run("document.getElementById('unknown').hidden")


def test_ids_that_the_release_does_not_contain_are_shown(release_home, serve, browser):
    """The release changes after a click: the page shows which of its ids have no effect any more."""
    release_home.promote(release_home.first)
    live = serve(release_home.home)
    browser.open(f"http://127.0.0.1:{live.port}/")
    browser.wait(f"{TRACKS}.length", 15)
    browser.run("day.artists = ['3338850485761997357']; updateLists('Changed')")
    browser.wait("document.getElementById('unknown').hidden", False)
    note = "document.getElementById('unknown').textContent"
    assert browser.run(note) == (
        "Ignored, because this release does not contain it: onboarding: artists 3338850485761997357"
    )
    browser.run("document.getElementById('reset').click()")
    browser.wait("document.getElementById('unknown').hidden")


def test_page_loads_only_from_its_own_host_and_escapes_names(live, browser):
    for page in ("/", "/docs"):
        browser.open(f"http://127.0.0.1:{live.port}{page}")
        browser.wait("document.querySelectorAll('#tracks li, #operations details').length > 5")
    hosts = {address.split("/")[2] for address in browser.requested if address.startswith("http")}
    assert hosts == {f"127.0.0.1:{live.port}"}
    n_operations = sum(len(methods) for methods in live.call("/openapi.json")[2]["paths"].values())
    assert browser.run("document.querySelectorAll('#operations details').length") == n_operations
    browser.open(f"http://127.0.0.1:{live.port}/")
    artists = "[...document.querySelectorAll('#artists button')].map(it => it.innerHTML)"
    browser.wait(artists, ["Ada", "Bo &amp; the &lt;b&gt;Bs&lt;/b&gt;", "Artist 3"])


def test_changes_of_a_superseded_request_are_announced_with_the_next_response(live, browser):
    browser.open(f"http://127.0.0.1:{live.port}/")
    browser.wait(f"{TRACKS}.length", 15)
    browser.run("""(() => {
        const age = document.getElementById('age');
        age.value = '30';
        age.dispatchEvent(new Event('input'));
        document.querySelector('[data-act=skips]').click();
        document.querySelector('[data-act=bans]').click();
    })()""")
    browser.wait(
        r"/^Age changed\. .+ skipped\. .+ banned\. First now: /"
        f".test({ANNOUNCEMENT})"
    )


def test_keys_pressed_during_a_request_are_all_applied_and_the_focus_stays(live, browser):
    browser.open(f"http://127.0.0.1:{live.port}/")
    browser.wait(f"{TRACKS}.length", 15)
    browser.delay("/v1/recommendations")
    browser.tab_to("it.dataset.act === 'favourites' && it.dataset.place === '2'")
    liked = browser.run(TRACKS)[2]
    browser.press("Enter")
    browser.wait_for_delayed(1)
    browser.tab_to("it.dataset.act === 'bans' && it.dataset.place === '3'")
    banned = browser.run(TRACKS)[3]
    browser.press("Enter")
    browser.wait_for_delayed(2)
    browser.tab_to("it.dataset.act === 'skips' && it.dataset.place === '4'")
    browser.resume()
    browser.wait(f"{ANNOUNCEMENT}.startsWith({f'{liked} liked. {banned} banned. First now: '!r})")
    assert browser.run(FOCUS) == "skips4"
    browser.press("Tab")
    assert browser.run(FOCUS) == "bans4"


def test_page_accepts_the_ages_of_the_service():
    page = (Path(serving.__file__).parent / "page/index.html").read_text()
    assert f'id="age" type="number" min="{MIN_AGE}" max="{MAX_AGE}"' in page


def test_age_typed_during_a_request_is_announced_twice(live, browser):
    browser.open(f"http://127.0.0.1:{live.port}/")
    browser.wait(f"{TRACKS}.length", 15)
    browser.run("window.setTimeout = (what) => { window.due = what; }")  # the test decides when the typing delay ends
    browser.delay("/v1/recommendations")
    browser.tab_to("it.id === 'age'")
    browser.press("6")
    browser.run("void due()")
    browser.wait_for_delayed(1)
    browser.press("3")
    browser.resume()
    browser.wait(f"{ANNOUNCEMENT}.startsWith('Age changed. First now: ')")
    browser.run(f"{ANNOUNCEMENT} = ''")
    browser.run("void due()")
    browser.wait(f"{ANNOUNCEMENT}.startsWith('Age changed. First now: ')")


def test_focus_stays_on_an_artist_during_a_search_and_the_last_search_wins(live, browser):
    browser.open(f"http://127.0.0.1:{live.port}/")
    browser.wait(f"{TRACKS}.length", 15)
    names = "[...document.querySelectorAll('#artists button')].map(it => it.textContent)"
    all_names = browser.run(names)
    browser.delay("/v1/search?*")
    browser.tab_to("it.id === 'artist-search'")
    browser.press("b")
    browser.wait_for_delayed(1)
    browser.tab_to("it.textContent.startsWith('Bo &')")
    browser.resume()
    browser.wait(names, [name for name in all_names if "b" in name.casefold()])
    assert browser.run("document.activeElement.textContent").startswith("Bo &")
    browser.delay("/v1/search?*")
    for text in ("ada", "zzz"):
        browser.run(f"(it => {{ it.value = {text!r}; it.dispatchEvent(new Event('input')) }})(byId('artist-search'))")
        browser.wait_for_delayed(1 if text == "ada" else 2)
    browser.resume()
    browser.wait(names, [])
    assert browser.run("document.activeElement.id") == "artist-search"


def test_undoing_a_signal_keeps_the_focus_in_the_list_of_signals(live, browser):
    browser.open(f"http://127.0.0.1:{live.port}/")
    browser.wait(f"{TRACKS}.length", 15)
    browser.run("for (const place of [0, 1]) document.querySelectorAll('#tracks [data-act=streams]')[place].click()")
    browser.tab_to("it.closest('#day') !== null")
    browser.press("Enter")
    browser.wait("document.querySelectorAll('#day button').length", 1)
    assert browser.run("document.activeElement.matches('#day button')")
    browser.press("Enter")
    browser.wait("document.querySelectorAll('#day button').length", 0)
    assert browser.run("document.activeElement.id") == "day"


def test_operation_can_be_run_from_the_api_page(live, browser):
    browser.open(f"http://127.0.0.1:{live.port}/docs")
    n_bodies = sum("post" in methods for methods in live.call("/openapi.json")[2]["paths"].values())
    browser.wait("document.querySelectorAll('#operations textarea').length", n_bodies)
    browser.run("document.querySelector('#operations textarea').parentElement.querySelector('button').click()")
    response = "document.querySelector('#operations textarea').parentElement.querySelector('pre').textContent"
    browser.wait(f"{response}.startsWith('200 {live.release_home.first}')")


def test_page_reports_a_missing_key_or_release_and_recovers(release_home, serve, browser):
    live = serve(release_home.home, api_key="sesame")
    browser.open(f"http://127.0.0.1:{live.port}/")
    browser.wait("document.getElementById('key').hidden", False)
    release_home.promote(release_home.first)
    live.wait(release_home.first)
    browser.run("document.getElementById('key-value').value = 'sesame'")
    browser.run("document.querySelector('#key button').click()")
    browser.wait("document.querySelectorAll('#tracks li').length", 15)
    assert browser.run("document.getElementById('key').hidden && document.getElementById('error').hidden")
    empty = serve(release_home.home / "nowhere")
    browser.open(f"http://127.0.0.1:{empty.port}/")
    browser.wait("document.getElementById('error').textContent.includes('no release has been promoted')")


def test_never_this_artist_is_applied_shown_and_undone(live, browser):
    browser.open(f"http://127.0.0.1:{live.port}/")
    browser.wait(TRACKS, titles(live, {}))
    first = live.lists({}, k=15)["tracks"][0]
    browser.run("document.querySelector('#tracks [data-act=never]').click()")
    browser.wait(TRACKS, titles(live, {"bans": {"artists": [first["artist_id"]]}}))
    artists = "[...document.querySelectorAll('#tracks .name span')].map(it => it.textContent)"
    name = first["artist"] or f"Artist {first['artist_id']}"
    assert name not in browser.run(artists)
    assert browser.run("document.querySelector('#day').textContent").startswith(f"never {name}")
    browser.run("document.querySelector('#day button').click()")
    browser.wait(TRACKS, titles(live, {}))


def test_limit_comparison_and_more_tracks(live, browser):
    browser.open(f"http://127.0.0.1:{live.port}/")
    browser.wait(TRACKS, titles(live, {}))

    def choose(element: str, value: str) -> None:
        browser.run(
            f"(() => {{ const it = document.getElementById('{element}'); it.value = '{value}'; "
            "it.dispatchEvent(new Event('change')); it.dispatchEvent(new Event('input')); return 1 })()"
        )

    def names(response: dict) -> list[str]:
        return [track["title"] or f"Track {track['track_id']}" for track in response["tracks"]]

    choose("per-artist", "1")
    limited = live.lists({}, k=15, per_artist=1)
    assert limited["relaxed"] > 0, "three artists cannot fill the list under this limit"
    browser.wait(TRACKS, names(limited))
    browser.wait("document.getElementById('short').textContent.startsWith('The limit per artist was raised')")
    choose("per-artist", "")
    choose("compare", "popularity")
    other = "[...document.querySelectorAll('#other-tracks b')].map(it => it.textContent)"
    browser.wait(other, names(live.lists({}, k=15, method="popularity")))
    assert "popular" in browser.run("document.getElementById('other-title').textContent")
    choose("compare", "")
    browser.wait("document.getElementById('other').hidden")
    browser.run("document.getElementById('more').click()")
    browser.wait(TRACKS, names(live.lists({}, k=30)))


def test_the_day_is_still_there_when_the_page_is_loaded_again(live, browser):
    address, day = (
        f"http://127.0.0.1:{live.port}/",
        "[...document.querySelectorAll('#day li span')].map(it => it.textContent)",
    )
    remembered = "document.getElementById('remembered').textContent.startsWith('The service remembers')"
    browser.open(address)
    browser.wait(TRACKS, titles(live, {}))
    (first, *_) = browser.run(TRACKS)
    browser.run("document.querySelector('#tracks [data-act=favourites]').click()")
    browser.wait(remembered)
    browser.open(address)
    browser.wait(day, [first])
    listener = {"favourites": {"tracks": [live.lists({}, k=1)["tracks"][0]["track_id"]]}}
    browser.wait(TRACKS, titles(live, listener))
    browser.run("document.querySelector('#day button').click()")
    browser.wait("document.querySelector('#day').textContent", "Nothing played yet")
    browser.wait(remembered)
    browser.open(address)
    browser.wait(TRACKS, titles(live, {}))
    assert browser.run("document.querySelectorAll('#day li svg').length") == 0
