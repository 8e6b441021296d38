"""The page for people, in a real browser: with keys alone, without any other address, with names taken as text."""

from __future__ import annotations

import pytest
from browser import Browser, chromium

TRACKS = "[...document.querySelectorAll('#tracks b')].map(it => it.textContent)"


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
    browser.wait(TRACKS, titles(live, {"country": "FR"}))
    browser.tab_to("it.id === 'age'")
    for digit in "23":
        browser.press(digit)
    browser.tab_to("it.closest('#artists') !== null")
    browser.press(" ")
    day = {"country": "FR", "age": 23, "onboarding": {"artists": [1]}}
    browser.wait(TRACKS, titles(live, day))
    browser.wait("document.activeElement.getAttribute('aria-pressed')", "true")
    moved = "[...document.querySelectorAll('#moved span')].map(it => it.textContent)"
    wanted = [one["signal"] for one in live.lists(day, explain=True)["reasons"]["moved_most"]]
    spoken = {"country": "France", "age": "age 23", "onboarding.artists": "Ada"}
    browser.wait(moved, [spoken[signal] for signal in wanted])
    browser.tab_to("it.dataset.act === 'bans'")
    first = titles(live, day)[0]
    browser.press("Enter")
    browser.wait(f"{TRACKS}.includes({first!r})", False)
    browser.wait("document.activeElement.dataset.act + document.activeElement.dataset.place", "bans0")
    browser.wait(f"document.getElementById('said').textContent.includes('{first} banned. First now: ')")
    banned = next(track["track_id"] for track in live.lists(day, k=15)["tracks"])
    assert browser.run(TRACKS) == titles(live, {**day, "bans": {"tracks": [banned]}})
    browser.tab_to("it.id === 'reset'")
    browser.press("Enter")
    browser.wait(TRACKS, titles(live, {}))
    assert browser.run("document.getElementById('trouble').hidden")


def test_clicks_change_list_segment_carousel_and_reasons(live, browser):
    browser.open(f"http://127.0.0.1:{live.port}/")
    browser.wait(TRACKS, titles(live, {}))
    _, _, row = live.call("/v1/carousels", {"listener": {"country": "BR"}, "near": 2})
    browser.run(
        "(it => { it.value = 'BR'; it.dispatchEvent(new Event('change')) })(document.getElementById('country'))"
    )
    browser.wait(TRACKS, titles(live, {"country": "BR"}))
    said = live.lists({"country": "BR"})["reasons"]["says"]
    browser.wait("document.getElementById('says').textContent", said)
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
    described = sum(len(methods) for methods in live.call("/openapi.json")[2]["paths"].values())
    assert browser.run("document.querySelectorAll('#operations details').length") == described
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
