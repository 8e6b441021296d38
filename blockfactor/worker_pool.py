"""A pool of workers inside one Spark job: tasks that receive calls from the driver over a socket.

A factorisation consists of hundreds of short steps. Run as separate Spark jobs, each step pays for planning, pickling
and scheduling, often more than for its work. Sent to tasks that are already running, a step costs one message in each
direction. The workers are ordinary Spark tasks, one per core: Spark schedules them, stops them with the application and
restarts a lost one. They connect to the driver on a separate port (as Spark's executors do) and authenticate with a
random key of this job.

A call is a function and one item, both small; arrays are passed in files (`csr_blocks.py`). If a worker dies, another
worker repeats its current call. A call must therefore write the same bytes each time and must not read a file that it
writes.
"""

from __future__ import annotations

import os
import pickle
import queue
import secrets
import socket
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from multiprocessing.connection import Client, Connection, Listener, answer_challenge, deliver_challenge
from threading import Thread
from typing import TYPE_CHECKING, Any, TypeVar

from pyspark import InheritableThread, cloudpickle

from blockfactor.errors import WorkerPoolError

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

T = TypeVar("T")
R = TypeVar("R")
CONNECTION_ERRORS = (EOFError, OSError)
_blas_is_limited = False


class WorkerPool:
    """Driver side of the pool: sends each call to an idle worker and returns results in the order of the items.

    Use the context manager `worker_pool` to create one.
    """

    def __init__(self, listener: Listener, key: bytes) -> None:
        self._listener, self._key = listener, key
        self._calls: queue.SimpleQueue[tuple[int, bytes]] = queue.SimpleQueue()
        self._results: queue.SimpleQueue[tuple[int, bool, Any]] = queue.SimpleQueue()
        self._threads: list[Thread] = []
        self._closed = False
        self.job: Thread | None = None
        self.failure: Exception | None = None

    def map(self, function: Callable[[T], R], items: Sequence[T]) -> list[R]:
        """Call `function` once for each item and return the results in the order of the items.

        Args:
            function: Picklable with cloudpickle; its result must be small.
            items: One argument per call.

        Raises:
            WorkerPoolError: The Spark job that runs the workers ended before the last result.
            Exception: The exception of a failed call, unchanged.
        """
        for index, item in enumerate(items):
            self._calls.put((index, cloudpickle.dumps((function, item))))
        results: dict[int, R] = {}
        while len(results) < len(items):
            try:
                index, succeeded, value = self._results.get(timeout=0.5)
            except queue.Empty:
                self._check_job()
                continue
            if not succeeded:
                raise value
            results[index] = value
        return [results[index] for index in range(len(items))]

    def _check_job(self) -> None:
        if self.job is not None and self.job.is_alive():
            return
        host, port = self._listener.address
        if self.failure:
            cause = str(self.failure).splitlines()[0]
        else:
            cause = f"no worker could connect to the driver at {host}:{port}"
        raise WorkerPoolError(f"the Spark job that runs the workers ended: {cause}")

    def accept_workers(self) -> None:
        """Accept connections of workers until the pool is closed. Runs in a thread."""
        while not self._closed:  # `close` may close the listener before its own connection is accepted
            with suppress(*CONNECTION_ERRORS):
                connection = self._listener.accept()
                if self._closed:
                    connection.close()
                    return
                thread = Thread(target=self._serve_worker, args=(connection,), daemon=True)
                self._threads.append(thread)
                thread.start()

    def _serve_worker(self, connection: Connection) -> None:
        """Send calls to one worker; if the connection is lost, its current call returns to the queue."""
        try:
            _disable_send_delay(connection)
            deliver_challenge(connection, self._key)
            answer_challenge(connection, self._key)
        except Exception:  # wrong key, or already disconnected
            connection.close()
            return
        while True:
            index, call = self._calls.get()
            if index < 0:
                with suppress(*CONNECTION_ERRORS):
                    connection.send_bytes(b"")
                connection.close()
                return
            try:
                connection.send_bytes(call)
                succeeded, value = pickle.loads(connection.recv_bytes())  # noqa: S301  the worker is authenticated
            except CONNECTION_ERRORS:
                self._calls.put((index, call))
                connection.close()
                return
            self._results.put((index, succeeded, value))

    def close(self) -> None:
        """Stop accepting workers and end all of them."""
        self._closed = True
        with suppress(*CONNECTION_ERRORS), socket.create_connection(self._listener.address, timeout=5):
            pass  # unblocks `accept_workers`
        self._listener.close()
        with suppress(queue.Empty):
            while True:
                self._calls.get_nowait()
        for _ in self._threads:
            self._calls.put((-1, b""))


@contextmanager
def worker_pool(spark: SparkSession, size: int) -> Iterator[WorkerPool]:
    """Run a pool of workers as one Spark job and stop it on exit.

    Spark runs as many workers at a time as it has cores. No other Spark job can run inside the context.

    Args:
        spark: Any session.
        size: Maximum number of workers.
    """
    conf = spark.sparkContext.getConf()
    is_local = (conf.get("spark.master") or "").startswith("local")
    host = "127.0.0.1" if is_local else str(conf.get("spark.driver.host"))
    bind_address = "127.0.0.1" if is_local else str(conf.get("spark.driver.bindAddress") or host)
    key = secrets.token_bytes(32)
    pool = WorkerPool(Listener((bind_address, 0), backlog=max(16, size)), key)
    address = (host, pool._listener.address[1])

    def run_job() -> None:
        try:
            spark.sparkContext.parallelize(range(size), size).foreach(lambda _: run_worker(address, key))
        except Exception as error:
            pool.failure = error

    Thread(target=pool.accept_workers, daemon=True).start()
    pool.job = InheritableThread(target=run_job, daemon=True)
    pool.job.start()
    try:
        yield pool
    finally:
        pool.close()
        pool.job.join()


def run_worker(address: tuple[str, int], key: bytes) -> None:
    """Execute calls from the driver until it closes the connection. Runs in a Spark task.

    Args:
        address: Host and port of the driver's listener.
        key: Key of the pool.
    """
    limit_blas_threads()
    try:
        connection = Client(address)
    except ConnectionRefusedError:  # the pool is already closed
        return
    with connection, suppress(*CONNECTION_ERRORS):
        _disable_send_delay(connection)
        answer_challenge(connection, key)
        deliver_challenge(connection, key)
        while call := connection.recv_bytes():
            try:
                function, item = pickle.loads(call)  # noqa: S301  the driver is authenticated
                result = pickle.dumps((True, function(item)))
            except Exception as error:
                result = _pickle_error(error)
            connection.send_bytes(result)


def _disable_send_delay(connection: Connection) -> None:
    """Set TCP_NODELAY: a message is a header and a body, and the body would wait until the header is acknowledged."""
    with socket.socket(fileno=os.dup(connection.fileno())) as duplicate:
        duplicate.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


def _pickle_error(error: Exception) -> bytes:
    try:
        return pickle.dumps((False, error))
    except Exception:
        return pickle.dumps((False, WorkerPoolError(repr(error))))


def limit_blas_threads() -> None:
    """Limit BLAS to one thread in this process: Spark already runs one task per core."""
    global _blas_is_limited
    if not _blas_is_limited:
        import scipy.linalg.cython_blas  # noqa: F401  loads the BLAS that compiled kernels call
        from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

        threadpool_limits(1)
        _blas_is_limited = True
