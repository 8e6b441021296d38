"""Input drift: the population stability index, its classes, and its export by the service."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

from models.cold_start.input_vector import INTERACTIONS, FirstDays
from models.cold_start.ragged import Ragged
from serving.release import input_drift
from serving.release.watcher import ChampionWatcher
from tests.helpers import release_keys, small_week
from tests.helpers.live import cohort_requests


def days(country, age, **blocks) -> FirstDays:
    return FirstDays(
        np.array(country, object), np.array(age), {name: Ragged.from_lists(lists) for name, lists in blocks.items()}
    )


def test_psi_equals_a_hand_computed_value():
    """Two features with two classes. Each class gets half a listener more: 9.5 of 11 against 5.5 of 11, then equal."""
    seen, expected = np.array([9.0, 1.0, 4.0, 6.0]), np.array([5.0, 5.0, 4.0, 6.0])
    expected_psi = (9.5 - 5.5) / 11 * math.log(9.5 / 5.5) + (1.5 - 5.5) / 11 * math.log(1.5 / 5.5)
    np.testing.assert_allclose(input_drift.psi(seen, expected, np.array([0, 2])), [expected_psi, 0], atol=1e-12)


def test_classes_include_unknown_other_and_missing_values():
    classes = input_drift.FeatureClasses(["DE", "FR"])
    flat = [f"{feature}: {name}" for feature, names in classes.names.items() for name in names]
    signals = {"streamed_songs": [[1], [1, 2, 3], range(50)], "banned_albums": [[], [], [5] * 4]}
    listeners = days(["FR", "XX", None], [17, -1, 50], **signals)
    labels = [[flat[place] for place in classes_of_row] for classes_of_row in classes.of(listeners)]
    assert labels == [
        ["country: FR", "age: under 18", "streamed_songs: 1"],
        ["country: other", "age: unknown", "streamed_songs: 2-3"],
        ["country: unknown", "age: 50+", "streamed_songs: 10+", "banned_albums: 4-9"],
    ]
    assert [next(iter(classes.of(listeners.rows(b, b + 1)))) for b in range(3)] == list(classes.of(listeners))
    oldest = days([None], [999])
    assert flat[next(iter(classes.of(oldest)))[1]] == "age: 50+"


def test_reference_counts_every_listener_in_every_feature():
    reference = input_drift.reference(
        days(["FR", "FR", "DE", None], [20, 30, -1, 20], favorite_songs=[[1, 2], [], [], []])
    )
    assert reference["n_users"] == 4
    assert set(reference["features"]) == {"country", "age", *INTERACTIONS}
    assert all(sum(feature["counts"]) == 4 == sum(feature["counts"]) for feature in reference["features"].values())
    assert reference["features"]["country"] == {"classes": ["DE", "FR", "other", "unknown"], "counts": [1, 2, 0, 1]}
    assert reference["features"]["favorite_songs"]["counts"] == [3, 0, 1, 0, 0]
    many = input_drift.reference(days([f"{chr(65 + n // 26)}{chr(65 + n % 26)}" for n in range(50)], [20] * 50))
    assert len(many["features"]["country"]["classes"]) == input_drift.COUNTRIES + 2


def listeners(n: int, rng: np.random.Generator, shifted: bool) -> FirstDays:
    country = rng.choice(["FR", "DE", "BR", None], n, p=[0.1, 0.1, 0.1, 0.7] if shifted else [0.4, 0.3, 0.2, 0.1])
    return days(country, rng.integers(16, 60, n), streamed_songs=[range(m) for m in rng.poisson(3.0, n)])


def test_index_is_low_without_drift_and_rises_only_for_drifted_features():
    rng = np.random.default_rng(0)
    watch = input_drift.DriftMonitor(json.loads(json.dumps(input_drift.reference(listeners(20_000, rng, False)))))
    assert watch.indices() == {}
    watch.count(listeners(4_000, rng, False))
    indices = watch.indices()
    assert 1_500 < indices.pop("listeners") <= input_drift.WINDOW
    assert max(indices.values()) < 0.02
    watch.count(listeners(1_500, rng, True))
    shifted = watch.indices()
    assert shifted["country"] > 0.25
    assert shifted["age"] < 0.02
    assert shifted["streamed_songs"] < 0.02
    watch.count(listeners(10_000, rng, False))
    assert watch.indices()["country"] < 0.02  # old listeners no longer count


def test_rescaling_the_counts_does_not_change_the_indices(monkeypatch):
    monkeypatch.setattr(input_drift, "LARGE", 1.5)  # forces frequent rescaling of the counts
    rng = np.random.default_rng(2)
    rescaled = input_drift.DriftMonitor(input_drift.reference(listeners(2_000, rng, False)))
    batch = listeners(3_000, rng, True)
    for start in range(0, 3_000, 100):
        rescaled.count(batch.rows(start, start + 100))
    monkeypatch.undo()
    unscaled = input_drift.DriftMonitor(input_drift.reference(listeners(2_000, np.random.default_rng(2), False)))
    unscaled.count(batch)
    assert rescaled.indices() == pytest.approx(unscaled.indices())


def test_reference_of_another_format_raises():
    with pytest.raises(ValueError, match="format 2"):
        input_drift.DriftMonitor({"format": 2, "features": {}})
    other = input_drift.reference(listeners(10, np.random.default_rng(0), False))
    other["features"]["age"]["classes"][0] = "children"
    with pytest.raises(ValueError, match="not those of this program"):
        input_drift.DriftMonitor(other)


def test_reference_is_the_training_split_and_metrics_report_drift(release_home, serve):
    release_home.promote(release_home.first)
    reference = json.loads((release_home.folder(release_home.first) / input_drift.NAME).read_text())
    context = small_week.context_at(release_home.home)
    training_days = FirstDays.from_arrow(context.lake.read("first_day", week=context.week.name, split="train"))
    assert reference == json.loads(json.dumps(input_drift.reference(training_days)))
    live = serve(release_home.home)

    def drift(feature: str) -> float:
        metrics = live.call("/metrics")[2]
        return next(
            float(line.split()[-1])
            for line in metrics.splitlines()
            if line.startswith(f'overture_input_drift{{feature="{feature}"}}')
        )

    live.call("/v1/recommendations/batch", {"listeners": cohort_requests(), "k": 1})
    assert drift("country") < 0.05
    assert drift("streamed_songs") < 0.05
    for _ in range(3):
        live.call("/v1/recommendations/batch", {"listeners": [{"country": "NZ"}] * 200, "k": 1})
    assert drift("country") > 1
    assert drift("streamed_songs") > 0.5
    assert live.call("/readyz")[2]["notes"] == {}


def test_release_without_a_reference_is_served_and_exports_no_drift(release_home, serve):
    older = small_week.with_changed_files(release_home.folder(release_home.first), {input_drift.NAME: None}).name
    release_home.promote(older)
    live = serve(release_home.home)
    live.lists({"country": "FR"}, k=2)
    status, _, response = live.call("/readyz")
    assert (status, response["degraded"]) == (200, {})
    assert "built by an older version" in response["notes"]["drift"]
    assert "overture_input_drift{" not in live.call("/metrics")[2]


def test_drift_counts_restart_with_a_new_release(release_home):
    release_home.promote(release_home.first)
    champion = ChampionWatcher(release_keys.folders(release_home.home), poll_s=1.0)
    champion.refresh()
    champion.current.watch.count(listeners(500, np.random.default_rng(1), True))
    release_home.promote(release_home.second)
    champion.refresh()
    assert champion.current.watch.indices() == {}
