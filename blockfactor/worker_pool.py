"""Workers that stay: one Spark job whose tasks take calls from the driver until they are told to go.

A factorisation is hundreds of short steps. Started as Spark jobs, each costs planning, pickling and waking up,
often more than its work; handed to tasks that are already there, it costs a message there and one back. The tasks are
plain Spark tasks, one a core: Spark places them, kills them with the application and starts a lost one again. They
call the driver back on a port of its own (as Spark's executors do), with a key that only this job's tasks know.

A call is a function and an item, both small: data lies in files (`blocks.py`). A call may be made twice: when a worker
dies, another takes over what it had in hand. So a call must write the same bytes each time and read nothing that it
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

from contracts.errors import OvertureError

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

T = TypeVar("T")
R = TypeVar("R")
LOST = (EOFError, OSError)
_limited = False


class Crew:
    """The driver's end. Calls go to whoever is free; answers come back in the order of the items."""

    def __init__(self, listener: Listener, key: bytes) -> None:
        self._listener, self._key = listener, key
        self._calls: queue.SimpleQueue[tuple[int, bytes]] = queue.SimpleQueue()
        self._answers: queue.SimpleQueue[tuple[int, bool, Any]] = queue.SimpleQueue()
        self._threads: list[Thread] = []
        self._closed = False
        self.job: Thread | None = None
        self.failure: Exception | None = None

    def each(self, function: Callable[[T], R], items: Sequence[T]) -> list[R]:
        """Call `function` once for each item and return the (small) answers in order.

        Raises:
            OvertureError: the Spark job that holds the workers ended before the last answer.
            Exception: what a call raised, as it is.
        """
        for index, item in enumerate(items):
            self._calls.put((index, cloudpickle.dumps((function, item))))
        answers: dict[int, R] = {}
        while len(answers) < len(items):
            try:
                index, good, value = self._answers.get(timeout=0.5)
            except queue.Empty:
                self._still_there()
                continue
            if not good:
                raise value
            answers[index] = value
        return [answers[index] for index in range(len(items))]

    def _still_there(self) -> None:
        if self.job is not None and self.job.is_alive():
            return
        host, port = self._listener.address  # type: ignore[misc]
        why = str(self.failure).splitlines()[0] if self.failure else f"none could reach the driver at {host}:{port}"
        raise OvertureError(f"factorisation: Spark's workers are gone: {why}")

    def welcome(self) -> None:
        """Take in workers as they come; runs in a thread of its own."""
        while True:
            with suppress(*LOST):
                line = self._listener.accept()
                if self._closed:
                    line.close()
                    return
                thread = Thread(target=self._employ, args=(line,), daemon=True)
                self._threads.append(thread)
                thread.start()

    def _employ(self, line: Connection) -> None:
        """Hand calls to one worker; what it had in hand when it was lost goes back."""
        try:
            _at_once(line)
            deliver_challenge(line, self._key)
            answer_challenge(line, self._key)
        except Exception:  # not one of ours, or gone already
            line.close()
            return
        while True:
            index, call = self._calls.get()
            if index < 0:
                with suppress(*LOST):
                    line.send_bytes(b"")
                line.close()
                return
            try:
                line.send_bytes(call)
                good, value = pickle.loads(line.recv_bytes())  # noqa: S301  it knew the key
            except LOST:
                self._calls.put((index, call))
                line.close()
                return
            self._answers.put((index, good, value))

    def close(self) -> None:
        """Send everyone home."""
        self._closed = True
        with suppress(*LOST), socket.create_connection(self._listener.address, timeout=5):  # type: ignore[arg-type]
            pass  # wakes `welcome`
        self._listener.close()
        with suppress(queue.Empty):
            while True:
                self._calls.get_nowait()
        for _ in self._threads:
            self._calls.put((-1, b""))


@contextmanager
def crew(spark: SparkSession, size: int) -> Iterator[Crew]:
    """At most `size` workers, as many as Spark has cores for; no other Spark job can run inside."""
    conf = spark.sparkContext.getConf()
    local = (conf.get("spark.master") or "").startswith("local")
    host = "127.0.0.1" if local else str(conf.get("spark.driver.host"))
    bind = "127.0.0.1" if local else str(conf.get("spark.driver.bindAddress") or host)
    key = secrets.token_bytes(32)
    found = Crew(Listener((bind, 0), backlog=max(16, size)), key)
    address = (host, found._listener.address[1])

    def hold() -> None:
        try:
            spark.sparkContext.parallelize(range(size), size).foreach(lambda _: serve(address, key))
        except Exception as error:
            found.failure = error

    Thread(target=found.welcome, daemon=True).start()
    found.job = InheritableThread(target=hold, daemon=True)
    found.job.start()
    try:
        yield found
    finally:
        found.close()
        found.job.join()


def serve(address: tuple[str, int], key: bytes) -> None:
    """A worker's life: one call after another, until the driver says so or is gone."""
    one_thread()
    try:
        line = Client(address)
    except ConnectionRefusedError:  # came when all was done
        return
    with line, suppress(*LOST):
        _at_once(line)
        answer_challenge(line, key)
        deliver_challenge(line, key)
        while call := line.recv_bytes():
            try:
                function, item = pickle.loads(call)  # noqa: S301  the driver, which knew the key
                answer = pickle.dumps((True, function(item)))
            except Exception as error:
                answer = _failed(error)
            line.send_bytes(answer)


def _at_once(line: Connection) -> None:
    """Send at once: an array goes as header and body, and the body would wait until the header is acknowledged."""
    with socket.socket(fileno=os.dup(line.fileno())) as shared:
        shared.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


def _failed(error: Exception) -> bytes:
    try:
        return pickle.dumps((False, error))
    except Exception:
        return pickle.dumps((False, OvertureError(repr(error))))


def one_thread() -> None:
    """One thread a task: Spark runs as many tasks as there are cores, and BLAS must not multiply that."""
    global _limited
    if not _limited:
        import scipy.linalg.cython_blas  # noqa: F401  loads the BLAS that compiled kernels call
        from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

        threadpool_limits(1)
        _limited = True
