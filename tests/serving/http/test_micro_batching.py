"""Concurrent requests share a pass of the model, and an error affects only the request that caused it."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace

import pytest

from contracts.errors import BadArgument
from serving.http.micro_batching import MAX_BATCH, MicroBatcher
from serving.recommend.signals import FirstDaySignals, ListParameters


def make_request(ready, age: int, **options) -> tuple:
    return ready, FirstDaySignals(None, age, None, {}), ListParameters(**options)


def run_together(requests, recommend):
    """Return the responses (or errors) to concurrent requests, and the ages of the listeners in each pass."""
    passes = []

    def recorded(ready, listeners, options):
        passes.append([listener.age for listener in listeners])
        return recommend(ready, listeners, options)

    async def gather():
        batcher = MicroBatcher(recorded)
        return await asyncio.gather(*(batcher.recommend(*request) for request in requests), return_exceptions=True)

    return asyncio.run(gather()), passes


def echo(ready, listeners, options):
    return [
        {"release": ready.name, "age": listener.age, "k": options.k, "out": options.exclude} for listener in listeners
    ]


def test_requests_with_equal_options_share_a_pass():
    first, second = SimpleNamespace(name="one"), SimpleNamespace(name="other")
    requests = [
        make_request(first, 20),
        make_request(first, 30, k=7),
        make_request(first, 40),
        make_request(second, 50),
        make_request(first, 60, exclude=(3,)),
    ]
    responses, passes = run_together(requests, echo)
    assert passes == [[20, 40], [30], [50], [60]]
    assert [(r["release"], r["age"], r["k"], r["out"]) for r in responses] == [
        ("one", 20, 50, ()),
        ("one", 30, 7, ()),
        ("one", 40, 50, ()),
        ("other", 50, 50, ()),
        ("one", 60, 50, (3,)),
    ]


def test_pass_size_is_bounded_and_every_request_gets_a_response():
    ready = SimpleNamespace(name="one")
    responses, passes = run_together([make_request(ready, age) for age in range(10, 2 * MAX_BATCH + 11)], echo)
    assert [len(ages) for ages in passes] == [MAX_BATCH, MAX_BATCH, 1]
    assert [response["age"] for response in responses] == list(range(10, 2 * MAX_BATCH + 11))


def test_failed_request_does_not_fail_the_other_requests_of_its_pass():
    def fails_for_13(ready, listeners, options):
        if any(listener.age == 13 for listener in listeners):
            raise BadArgument("thirteen")
        return echo(ready, listeners, options)

    ready = SimpleNamespace(name="one")
    responses, _ = run_together(
        [make_request(ready, 12), make_request(ready, 13), make_request(ready, 14)], fails_for_13
    )
    assert [responses[0]["age"], responses[2]["age"]] == [12, 14]
    with pytest.raises(BadArgument, match="thirteen"):
        raise responses[1]
