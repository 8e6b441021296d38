"""Workers that stay: answers in order, errors as they are, strangers kept out, and what happens when one dies."""

import os
import sys
import time
from functools import partial
from multiprocessing.connection import Client

import numpy as np
import pytest
from pyspark import cloudpickle

from blockfactor.worker_pool import crew
from contracts.errors import BadArgument, OvertureError

cloudpickle.register_pickle_by_value(sys.modules[__name__])  # the workers know the product, not the tests


def square(x):
    time.sleep(0.01 * (x % 3))
    return x * x, os.getpid()


def refuse(x):
    raise BadArgument(f"item {x} is not for us")


def die_once(marker, x):
    if x == 2 and not os.path.exists(marker):
        open(marker, "w").close()
        os._exit(9)
    return x


def test_answers_come_in_the_order_of_the_items(spark):
    with crew(spark, 2) as workers:
        for _ in range(3):
            answers = workers.each(square, range(20))
            assert [value for value, _ in answers] == [x * x for x in range(20)]
        assert len({pid for _, pid in workers.each(square, range(20))}) == 2
        assert workers.each(square, []) == []
    assert spark.range(10).count() == 10  # the cores are free again


def test_more_places_than_cores_are_no_harm(spark):
    with crew(spark, 7) as workers:
        assert [value for value, _ in workers.each(square, range(9))] == [x * x for x in range(9)]
    assert spark.range(10).count() == 10


def test_an_error_of_a_call_is_raised_as_it_is(spark):
    with pytest.raises(BadArgument, match="item 0 is not for us"), crew(spark, 2) as workers:
        workers.each(refuse, [0])
    assert spark.range(10).count() == 10


def test_arrays_go_both_ways(spark):
    with crew(spark, 2) as workers:
        found = workers.each(partial(np.multiply, np.arange(5.0)), [np.ones(5), np.full(5, 2.0)])
    np.testing.assert_array_equal(found[1], 2 * np.arange(5.0))


def test_a_stranger_without_the_key_gets_no_call(spark):
    with crew(spark, 2) as workers:
        with pytest.raises(Exception, match=r"digest|EOF|auth|reset|^$"):
            Client(workers._listener.address, authkey=b"guess").recv()
        Client(workers._listener.address).close()
        assert [value for value, _ in workers.each(square, range(5))] == [0, 1, 4, 9, 16]


def test_on_one_machine_a_dead_worker_ends_the_run_with_a_clear_error(spark, tmp_path):
    with pytest.raises(OvertureError, match="Spark's workers are gone"), crew(spark, 1) as workers:
        workers.each(partial(die_once, str(tmp_path / "died")), range(4))
    assert spark.range(10).count() == 10
