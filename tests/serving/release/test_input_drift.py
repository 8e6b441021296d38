"""Drift of inputs: the index by hand, the same listeners leave it low, others move it, old releases say they cannot."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

from models.cold_start.input_vector import INTERACTIONS, FirstDays, Ragged
from serving.release import input_drift
from serving.release.watcher import ChampionWatcher
from tests.helpers import small_week
from tests.helpers.live import cohort_requests


def days(country, age, **blocks) -> FirstDays:
    return FirstDays(
        np.array(country, object), np.array(age), {name: Ragged.from_lists(lists) for name, lists in blocks.items()}
    )


def test_the_index_by_hand():
    """Two features of two classes; half a listener is added everywhere: 9.5 of 11 against 5.5 of 11, then the same."""
    seen, expected = np.array([9.0, 1.0, 4.0, 6.0]), np.array([5.0, 5.0, 4.0, 6.0])
    wanted = (9.5 - 5.5) / 11 * math.log(9.5 / 5.5) + (1.5 - 5.5) / 11 * math.log(1.5 / 5.5)
    np.testing.assert_allclose(input_drift.psi(seen, expected, np.array([0, 2])), [wanted, 0], atol=1e-12)


def test_classes_count_the_unknown_the_other_and_the_missing():
    classes = input_drift.FeatureClasses(["DE", "FR"])
    flat = [f"{feature}: {name}" for feature, names in classes.names.items() for name in names]
    signals = {"streamed_songs": [[1], [1, 2, 3], range(50)], "banned_albums": [[], [], [5] * 4]}
    three = days(["FR", "XX", None], [17, -1, 50], **signals)
    said = [[flat[place] for place in at] for at in classes.of(three)]
    assert said == [
        ["country: FR", "age: under 18", "streamed_songs: 1"],
        ["country: other", "age: unknown", "streamed_songs: 2-3"],
        ["country: unknown", "age: 50+", "streamed_songs: 10+", "banned_albums: 4-9"],
    ]
    assert [next(iter(classes.of(three.rows(b, b + 1)))) for b in range(3)] == list(classes.of(three))
    oldest = days([None], [999])
    assert flat[next(iter(classes.of(oldest)))[1]] == "age: 50+"


def test_the_reference_counts_every_listener_in_every_feature():
    said = input_drift.reference(days(["FR", "FR", "DE", None], [20, 30, -1, 20], favorite_songs=[[1, 2], [], [], []]))
    assert said["n_users"] == 4
    assert set(said["features"]) == {"country", "age", *INTERACTIONS}
    assert all(sum(one["counts"]) == 4 == sum(one["counts"]) for one in said["features"].values())
    assert said["features"]["country"] == {"classes": ["DE", "FR", "other", "unknown"], "counts": [1, 2, 0, 1]}
    assert said["features"]["favorite_songs"]["counts"] == [3, 0, 1, 0, 0]
    many = input_drift.reference(days([f"{chr(65 + n // 26)}{chr(65 + n % 26)}" for n in range(50)], [20] * 50))
    assert len(many["features"]["country"]["classes"]) == input_drift.COUNTRIES + 2


def crowd(n: int, rng: np.random.Generator, shift: bool) -> FirstDays:
    country = rng.choice(["FR", "DE", "BR", None], n, p=[0.1, 0.1, 0.1, 0.7] if shift else [0.4, 0.3, 0.2, 0.1])
    return days(country, rng.integers(16, 60, n), streamed_songs=[range(m) for m in rng.poisson(3.0, n)])


def test_the_same_listeners_leave_it_low_and_others_move_only_what_differs():
    rng = np.random.default_rng(0)
    watch = input_drift.DriftMonitor(json.loads(json.dumps(input_drift.reference(crowd(20_000, rng, False)))))
    assert watch.indices() == {}
    watch.count(crowd(4_000, rng, False))
    same = watch.indices()
    assert 1_500 < same.pop("listeners") <= input_drift.WINDOW
    assert max(same.values()) < 0.02
    watch.count(crowd(1_500, rng, True))
    moved = watch.indices()
    assert moved["country"] > 0.25
    assert moved["age"] < 0.02
    assert moved["streamed_songs"] < 0.02
    watch.count(crowd(10_000, rng, False))
    assert watch.indices()["country"] < 0.02  # what is long ago is forgotten


def test_counting_for_very_long_changes_nothing(monkeypatch):
    monkeypatch.setattr(input_drift, "LARGE", 1.5)  # as if many more listeners had come
    rng = np.random.default_rng(2)
    often = input_drift.DriftMonitor(input_drift.reference(crowd(2_000, rng, False)))
    some = crowd(3_000, rng, True)
    for start in range(0, 3_000, 100):
        often.count(some.rows(start, start + 100))
    monkeypatch.undo()
    never = input_drift.DriftMonitor(input_drift.reference(crowd(2_000, np.random.default_rng(2), False)))
    never.count(some)
    assert often.indices() == pytest.approx(never.indices())


def test_a_reference_of_another_format_is_refused():
    with pytest.raises(ValueError, match="format 2"):
        input_drift.DriftMonitor({"format": 2, "features": {}})
    other = input_drift.reference(crowd(10, np.random.default_rng(0), False))
    other["features"]["age"]["classes"][0] = "children"
    with pytest.raises(ValueError, match="not those of this program"):
        input_drift.DriftMonitor(other)


def test_a_bundle_holds_the_training_split_and_the_service_tells_what_moves(shop, serve):
    shop.promote(shop.first)
    said = json.loads((shop.folder(shop.first) / input_drift.NAME).read_text())
    context = small_week.context_at(shop.home)
    trained = FirstDays.from_arrow(context.lake.read("first_day", week=context.week.name, split="train"))
    assert said == json.loads(json.dumps(input_drift.reference(trained)))
    live = serve(shop.home)

    def index(feature: str) -> float:
        page = live.call("/metrics")[2]
        return next(
            float(line.split()[-1])
            for line in page.splitlines()
            if line.startswith(f'overture_input_drift{{feature="{feature}"}}')
        )

    live.call("/v1/recommendations/batch", {"listeners": cohort_requests(), "k": 1})
    assert index("country") < 0.05
    assert index("streamed_songs") < 0.05
    for _ in range(3):
        live.call("/v1/recommendations/batch", {"listeners": [{"country": "NZ"}] * 200, "k": 1})
    assert index("country") > 1
    assert index("streamed_songs") > 0.5
    assert live.call("/readyz")[2]["notes"] == {}


def test_a_release_without_the_reference_serves_says_so_and_has_no_numbers(shop, serve):
    older = small_week.resealed(shop.folder(shop.first), {input_drift.NAME: None}).name
    shop.promote(older)
    live = serve(shop.home)
    live.lists({"country": "FR"}, k=2)
    status, _, said = live.call("/readyz")
    assert (status, said["degraded"]) == (200, {})
    assert "made before" in said["notes"]["drift"]
    assert "overture_input_drift{" not in live.call("/metrics")[2]


def test_another_release_starts_anew(shop):
    shop.promote(shop.first)
    champion = ChampionWatcher(shop.home)
    champion.refresh()
    champion.current.watch.count(crowd(500, np.random.default_rng(1), True))
    shop.promote(shop.second)
    champion.refresh()
    assert champion.current.watch.indices() == {}
