"""The worker pool: order of results, errors, authentication, and a worker process that exits."""

import os
import sys
import time
from functools import partial
from multiprocessing.connection import Client, Listener
from threading import Thread

import numpy as np
import pytest
from pyspark import cloudpickle

from blockfactor.errors import InvalidDataError, WorkerPoolError
from blockfactor.worker_pool import WorkerPool, worker_pool

cloudpickle.register_pickle_by_value(sys.modules[__name__])  # workers cannot import the tests


def square(x):
    time.sleep(0.01 * (x % 3))
    return x * x, os.getpid()


def fail(x):
    raise InvalidDataError(f"item {x} is invalid")


def exit_once(marker, x):
    if x == 2 and not os.path.exists(marker):
        open(marker, "w").close()
        os._exit(9)
    return x


def test_results_are_in_the_order_of_the_items(spark):
    with worker_pool(spark, 2) as workers:
        for _ in range(3):
            results = workers.map(square, range(20))
            assert [value for value, _ in results] == [x * x for x in range(20)]
        assert len({pid for _, pid in workers.map(square, range(20))}) == 2
        assert workers.map(square, []) == []
    assert spark.range(10).count() == 10  # the cores are free again


def test_a_pool_may_be_larger_than_the_number_of_cores(spark):
    with worker_pool(spark, 7) as workers:
        assert [value for value, _ in workers.map(square, range(9))] == [x * x for x in range(9)]
    assert spark.range(10).count() == 10


def test_an_exception_of_a_call_is_raised_unchanged(spark):
    with pytest.raises(InvalidDataError, match="item 0 is invalid"), worker_pool(spark, 2) as workers:
        workers.map(fail, [0])
    assert spark.range(10).count() == 10


def test_arrays_are_passed_in_both_directions(spark):
    with worker_pool(spark, 2) as workers:
        products = workers.map(partial(np.multiply, np.arange(5.0)), [np.ones(5), np.full(5, 2.0)])
    np.testing.assert_array_equal(products[1], 2 * np.arange(5.0))


def test_a_client_without_the_key_receives_no_call(spark):
    with worker_pool(spark, 2) as workers:
        with pytest.raises(Exception, match=r"digest|EOF|auth|reset|^$"):
            Client(workers._listener.address, authkey=b"guess").recv()
        Client(workers._listener.address).close()
        assert [value for value, _ in workers.map(square, range(5))] == [0, 1, 4, 9, 16]


def test_the_thread_that_accepts_workers_ends_if_the_listener_closes_before_it_accepts():
    pool = WorkerPool(Listener(("127.0.0.1", 0)), b"key")
    pool.close()
    thread = Thread(target=pool.accept_workers, daemon=True)
    thread.start()
    thread.join(timeout=10)
    assert not thread.is_alive(), "it accepts from the closed listener again and again, and occupies a core"


def test_in_local_mode_an_exited_worker_raises(spark, tmp_path):
    with (
        pytest.raises(WorkerPoolError, match="the Spark job that runs the workers ended"),
        worker_pool(spark, 1) as workers,
    ):
        workers.map(partial(exit_once, str(tmp_path / "exited")), range(4))
    assert spark.range(10).count() == 10
