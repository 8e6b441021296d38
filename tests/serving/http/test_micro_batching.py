"""Requests of one moment share a pass; what is wrong with one stays with it."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace

import pytest

from contracts.errors import BadArgument
from serving.http.micro_batching import MAX_BATCH, MicroBatcher
from serving.schema import RecommendationRequest


def asked(age: int, **how) -> RecommendationRequest:
    return RecommendationRequest.model_validate({"listener": {"age": age}, **how})


def gathered(requests, answer):
    """Answers (or errors) to requests that arrive in one turn of the loop, and the listeners of each pass."""
    passes = []

    def noted(ready, listeners, how):
        passes.append([one.age for one in listeners])
        return answer(ready, listeners, how)

    async def run():
        together = MicroBatcher(noted)
        return await asyncio.gather(*(together.recommend(*one) for one in requests), return_exceptions=True)

    return asyncio.run(run()), passes


def echo(ready, listeners, how):
    return [{"release": ready.name, "age": one.age, "k": how.k, "out": how.exclude} for one in listeners]


def test_alike_requests_share_a_pass_and_each_gets_its_own_answer():
    one, other = SimpleNamespace(name="one"), SimpleNamespace(name="other")
    requests = [
        (one, asked(20)),
        (one, asked(30, k=7)),
        (one, asked(40)),
        (other, asked(50)),
        (one, asked(60, exclude=[3])),
    ]
    found, passes = gathered(requests, echo)
    assert passes == [[20, 40], [30], [50], [60]]
    assert [(a["release"], a["age"], a["k"], a["out"]) for a in found] == [
        ("one", 20, 50, []),
        ("one", 30, 7, []),
        ("one", 40, 50, []),
        ("other", 50, 50, []),
        ("one", 60, 50, [3]),
    ]


def test_a_pass_is_bounded_and_everybody_is_answered():
    ready = SimpleNamespace(name="one")
    found, passes = gathered([(ready, asked(age)) for age in range(2 * MAX_BATCH + 1)], echo)
    assert [len(one) for one in passes] == [MAX_BATCH, MAX_BATCH, 1]
    assert [answer["age"] for answer in found] == list(range(2 * MAX_BATCH + 1))


def test_a_request_that_fails_does_not_take_its_neighbours_along():
    def picky(ready, listeners, how):
        if any(one.age == 13 for one in listeners):
            raise BadArgument("thirteen")
        return echo(ready, listeners, how)

    ready = SimpleNamespace(name="one")
    found, _ = gathered([(ready, asked(12)), (ready, asked(13)), (ready, asked(14))], picky)
    assert [found[0]["age"], found[2]["age"]] == [12, 14]
    with pytest.raises(BadArgument, match="thirteen"):
        raise found[1]
