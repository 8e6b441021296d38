"""Tests of publishing again what a store lost."""

from __future__ import annotations

import json

import pytest

from jobs.release import bundle, publish, publish_missing
from serving.settings import StoreSettings
from serving.stores import open_store
from serving.stores.interface import WARM, NotPublished, StoreUnavailable, find_user
from tests.helpers import small_week
from tests.helpers.small_tables import table

USER = int(small_week.warm_users()[0][0])


@pytest.fixture
def champion(home, redis):
    """Return a context with the first week as champion, a day with a new user, and an empty Redis."""
    import redis as client

    client.Redis.from_url(redis.url).flushall()
    context = small_week.staged(home, "champion")
    context.settings = context.settings.model_copy(
        update={"store": StoreSettings(kind="redis", redis_url=redis.url, timeout_s=5)}
    )
    day = small_week.cohort()[0].slice(0, 1).to_pylist()[0]
    new = {"registered_at": context.week.as_of, **day}
    context.lake.write("cold_first_day", table("cold_first_day", [new]), day="2026-11-15")
    return context


def find(context, user=USER):
    store = open_store(context.settings.store, context.home)
    return find_user(store, bundle.release_of_week(context), "tt_svd", user)


def test_lost_rows_are_published_again_and_present_ones_are_not(champion, redis):
    import redis as client

    first = publish_missing.run(champion)
    assert (first["missing"], first["users"]) == ([WARM, "2026-11-15"], {"warm": small_week.N_WARM, "cold": 1})
    assert publish_missing.run(champion) == {"release": first["release"], "missing": []}
    server = client.Redis.from_url(redis.url)
    server.flushall()
    with pytest.raises(NotPublished):
        find(champion)
    assert publish_missing.run(champion)["missing"] == [WARM, "2026-11-15"]
    assert find(champion).kind == "warm"
    server.hdel(f"overture:{first['release']}:tt_svd:notices", "2026-11-15")
    report = publish_missing.run(champion)
    assert (report["missing"], report["users"]) == (["2026-11-15"], {"2026-11-15": 1})
    assert find(champion, 9_000).kind == "cold"


def test_rows_of_another_version_are_published_again(champion, redis):
    import redis as client

    publish.run(champion)
    server = client.Redis.from_url(redis.url)
    first_user = int(champion.lake.read("warm_users", week=small_week.FIRST)["user_id"][0].as_py())
    (key,) = server.keys(f"overture:*:{first_user}")
    server.set(key, b"\x01" + server.get(key)[1:])
    assert publish_missing.run(champion)["missing"] == [WARM]
    assert publish_missing.run(champion)["missing"] == []
    assert find(champion, first_user).kind == "warm"


def test_nothing_is_published_while_another_publication_runs_or_without_a_champion(champion, home):
    with publish.publish_lock(home, 0):
        report = publish_missing.run(champion)
    assert (report["missing"], report["why"]) == ([WARM, "2026-11-15"], "another publication is running")
    (home / "releases" / "champion.json").unlink()
    assert publish_missing.run(champion) == {"missing": [], "why": "there is no champion yet"}


def test_unavailable_store_raises(champion):
    store = champion.settings.store.model_copy(
        update={"redis_url": StoreSettings(redis_url="redis://127.0.0.1:1").redis_url}
    )
    champion.settings = champion.settings.model_copy(update={"store": store})
    with pytest.raises(StoreUnavailable):
        publish_missing.run(champion)


def test_command_reports_what_was_missing(champion, command, tmp_path):
    settings = tmp_path / "small.yaml"
    settings.write_text(json.dumps(small_week.settings().model_dump(mode="json", exclude={"service", "store"})))
    for missing in ([WARM, "2026-11-15"], []):
        code, out, err = command("release", "publish-missing", "--config", settings)
        assert code == 0, err
        assert json.loads(out.splitlines()[-1])["missing"] == missing
