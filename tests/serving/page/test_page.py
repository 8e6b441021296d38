"""The page for people, in a real browser: with keys alone, without any other address, with names taken as text."""

from __future__ import annotations

import pytest

from tests.helpers.browser import Browser, chromium

TRACKS = "[...document.querySelectorAll('#tracks b')].map(it => it.textContent)"
SAID = "document.getElementById('said').textContent"
FOCUS = "(document.activeElement.dataset.act || '') + (document.activeElement.dataset.place || '')"


@pytest.fixture(scope="module")
def program() -> str:
    found = chromium()
    if not found:
        pytest.skip("no Chromium on this machine: the page cannot be looked at")
    return found


@pytest.fixture
def browser(program, tmp_path):
    found = Browser(program, tmp_path / "browser")
    yield found
    found.close()


def titles(live, listener: dict) -> list[str]:
    said = live.lists(listener, k=15)
    return [track["title"] or f"Track {track['track_id']}" for track in said["tracks"]]


def test_a_first_day_with_the_keyboard_alone(live, browser):
    browser.open(f"http://127.0.0.1:{live.port}/")
    browser.wait(TRACKS, titles(live, {}))
    browser.tab_to("it.id === 'country'")
    browser.press("F")  # France is the only one with this letter
    # What was spoken tells that the answer to a key is shown: the lists of these listeners are much alike.
    browser.wait(f"{SAID}.startsWith('Country changed. First now: ')")
    assert browser.run(TRACKS) == titles(live, {"country": "FR"})
    browser.tab_to("it.id === 'age'")
    for digit in "23":
        browser.press(digit)
    browser.tab_to("it.closest('#artists') !== null")
    browser.press(" ")
    day = {"country": "FR", "age": 23, "onboarding": {"artists": [1]}}
    browser.wait(f"{SAID}.includes('Ada picked. First now: ')")
    assert browser.run(TRACKS) == titles(live, day)
    assert browser.run("document.activeElement.getAttribute('aria-pressed')") == "true"
    moved = "[...document.querySelectorAll('#moved span')].map(it => it.textContent)"
    wanted = [one["signal"] for one in live.lists(day, explain=True)["reasons"]["top_signals"]]
    spoken = {"country": "France", "age": "age 23", "onboarding.artists": "Ada"}
    assert browser.run(moved) == [spoken[signal] for signal in wanted]
    browser.tab_to("it.dataset.act === 'bans'")
    first = titles(live, day)[0]
    browser.press("Enter")
    browser.wait(f"{SAID}.startsWith('{first} banned. First now: ')")
    assert first not in browser.run(TRACKS)
    assert browser.run(FOCUS) == "bans0"
    banned = next(track["track_id"] for track in live.lists(day, k=15)["tracks"])
    assert browser.run(TRACKS) == titles(live, {**day, "bans": {"tracks": [banned]}})
    browser.tab_to("it.id === 'reset'")
    browser.press("Enter")
    browser.wait(f"{SAID}.startsWith('Started again. First now: ')")
    assert browser.run(TRACKS) == titles(live, {})
    assert browser.run("document.getElementById('trouble').hidden")


def test_clicks_change_list_segment_carousel_and_reasons(live, browser):
    browser.open(f"http://127.0.0.1:{live.port}/")
    browser.wait(TRACKS, titles(live, {}))
    _, _, row = live.call("/v1/carousels", {"listener": {"country": "BR"}, "n_nearest_tracks": 2})
    browser.run(
        "(it => { it.value = 'BR'; it.dispatchEvent(new Event('change')) })(document.getElementById('country'))"
    )
    browser.wait(TRACKS, titles(live, {"country": "BR"}))
    said = live.lists({"country": "BR"})["reasons"]["text"]
    browser.wait("document.getElementById('reason').textContent", said)
    places = "[...document.querySelectorAll('#carousel p')].map(it => Number(it.textContent.match(/\\d+/)[0]))"
    browser.wait(places, [one["playlist_id"] for one in row["playlists"]])
    browser.run("document.querySelector('#tracks [data-act=streams]').click()")
    browser.wait("document.querySelectorAll('#done li svg').length", 1)
    browser.wait("document.querySelector('#tracks [data-act=streams]').getAttribute('aria-pressed')", "true")
    browser.run("document.querySelector('#done button').click()")
    browser.wait("document.querySelectorAll('#done li svg').length", 0)


def test_nothing_is_loaded_from_elsewhere_and_names_are_text(live, browser):
    for page in ("/", "/docs"):
        browser.open(f"http://127.0.0.1:{live.port}{page}")
        browser.wait("document.querySelectorAll('#tracks li, #operations details').length > 5")
    asked = {address.split("/")[2] for address in browser.asked if address.startswith("http")}
    assert asked == {f"127.0.0.1:{live.port}"}
    candidate_rows = sum(len(methods) for methods in live.call("/openapi.json")[2]["paths"].values())
    assert browser.run("document.querySelectorAll('#operations details').length") == candidate_rows
    browser.open(f"http://127.0.0.1:{live.port}/")
    artists = "[...document.querySelectorAll('#artists button')].map(it => it.innerHTML)"
    browser.wait(artists, ["Ada", "Bo &amp; the &lt;b&gt;Bs&lt;/b&gt;", "Artist 3"])


def test_words_of_a_question_that_another_one_overtakes_are_spoken_with_the_next_answer(live, browser):
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
        "/^Age changed\\. .+ skipped\\. .+ banned\\. First now: /.test(document.getElementById('said').textContent)"
    )


def test_keys_pressed_while_an_answer_is_on_its_way_are_all_heard_and_the_focus_stays(live, browser):
    browser.open(f"http://127.0.0.1:{live.port}/")
    browser.wait(f"{TRACKS}.length", 15)
    browser.hold("/v1/recommendations")
    browser.tab_to("it.dataset.act === 'favourites' && it.dataset.place === '2'")
    liked = browser.run(TRACKS)[2]
    browser.press("Enter")
    browser.wait_for_held(1)
    browser.tab_to("it.dataset.act === 'bans' && it.dataset.place === '3'")
    banned = browser.run(TRACKS)[3]
    browser.press("Enter")
    browser.wait_for_held(2)
    browser.tab_to("it.dataset.act === 'skips' && it.dataset.place === '4'")
    browser.let_go()
    browser.wait(f"{SAID}.startsWith({f'{liked} liked. {banned} banned. First now: '!r})")
    assert browser.run(FOCUS) == "skips4"
    browser.press("Tab")
    assert browser.run(FOCUS) == "bans4"


def test_an_age_typed_on_while_its_first_digit_is_answered_is_heard_twice(live, browser):
    browser.open(f"http://127.0.0.1:{live.port}/")
    browser.wait(f"{TRACKS}.length", 15)
    browser.run("window.setTimeout = (what) => { window.due = what; }")  # the test says when typing has paused
    browser.hold("/v1/recommendations")
    browser.tab_to("it.id === 'age'")
    browser.press("2")
    browser.run("void due()")
    browser.wait_for_held(1)
    browser.press("3")
    browser.let_go()
    browser.wait(f"{SAID}.startsWith('Age changed. First now: ')")
    browser.run(f"{SAID} = ''")
    browser.run("void due()")
    browser.wait(f"{SAID}.startsWith('Age changed. First now: ')")


def test_the_focus_stays_on_an_artist_while_others_are_found_and_the_last_search_counts(live, browser):
    browser.open(f"http://127.0.0.1:{live.port}/")
    browser.wait(f"{TRACKS}.length", 15)
    names = "[...document.querySelectorAll('#artists button')].map(it => it.textContent)"
    everybody = browser.run(names)
    browser.hold("/v1/search?*")
    browser.tab_to("it.id === 'find'")
    browser.press("b")
    browser.wait_for_held(1)
    browser.tab_to("it.textContent.startsWith('Bo &')")
    browser.let_go()
    browser.wait(names, [name for name in everybody if "b" in name.casefold()])
    assert browser.run("document.activeElement.textContent").startswith("Bo &")
    browser.hold("/v1/search?*")
    for text in ("ada", "zzz"):
        browser.run(f"(it => {{ it.value = {text!r}; it.dispatchEvent(new Event('input')) }})(at('find'))")
        browser.wait_for_held(1 if text == "ada" else 2)
    browser.let_go()
    browser.wait(names, [])
    assert browser.run("document.activeElement.id") == "find"


def test_an_undone_signal_leaves_the_focus_in_the_day_and_never_on_start_again(live, browser):
    browser.open(f"http://127.0.0.1:{live.port}/")
    browser.wait(f"{TRACKS}.length", 15)
    browser.run("for (const place of [0, 1]) document.querySelectorAll('#tracks [data-act=streams]')[place].click()")
    browser.tab_to("it.closest('#done') !== null")
    browser.press("Enter")
    browser.wait("document.querySelectorAll('#done button').length", 1)
    assert browser.run("document.activeElement.matches('#done button')")
    browser.press("Enter")
    browser.wait("document.querySelectorAll('#done button').length", 0)
    assert browser.run("document.activeElement.id") == "done"


def test_an_operation_can_be_tried_on_the_page_of_the_api(live, browser):
    browser.open(f"http://127.0.0.1:{live.port}/docs")
    bodies = sum("post" in methods for methods in live.call("/openapi.json")[2]["paths"].values())
    browser.wait("document.querySelectorAll('#operations textarea').length", bodies)
    browser.run("document.querySelector('#operations textarea').parentElement.querySelector('button').click()")
    answer = "document.querySelector('#operations textarea').parentElement.querySelector('pre').textContent"
    browser.wait(f"{answer}.startsWith('200 {live.shop.first}')")


def test_without_a_release_or_a_key_the_page_says_so_and_goes_on_when_it_can(shop, serve, browser):
    live = serve(shop.home, api_key="sesame")
    browser.open(f"http://127.0.0.1:{live.port}/")
    browser.wait("document.getElementById('key').hidden", False)
    shop.promote(shop.first)
    live.wait(shop.first)
    browser.run("document.getElementById('key-value').value = 'sesame'")
    browser.run("document.querySelector('#key button').click()")
    browser.wait("document.querySelectorAll('#tracks li').length", 15)
    assert browser.run("document.getElementById('key').hidden && document.getElementById('trouble').hidden")
    empty = serve(shop.home / "nowhere")
    browser.open(f"http://127.0.0.1:{empty.port}/")
    browser.wait("document.getElementById('trouble').textContent.includes('no release has been promoted')")
