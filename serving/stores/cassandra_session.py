"""The session of the Cassandra driver, opened in a thread: no request waits for it longer than `store.timeout_s`.

Connect    at the first call, one attempt at a time. The call that starts it waits at most `timeout_s`, calls meanwhile
           fail at once; a later call finds the session, or starts the next attempt. A publisher waits for the result
Query      at most `timeout_s`
Reconnect  the driver opens the connections to a node that failed again, after 0.5 s at first and at most 30 s
"""

from __future__ import annotations

import contextlib
import ssl
import threading
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from contracts.errors import BadArgument
from serving.settings import StoreSettings
from serving.stores.interface import StoreUnavailable

HANDSHAKE_S = 1.0  # at least, in the background: a handshake consists of several calls
RECONNECT_S = (0.5, 30.0)


class Connected(NamedTuple):
    """An open session: the driver's cluster and session, and the prepared statements by name."""

    cluster: Any
    session: Any
    prepared: dict[str, Any]


class _Attempt:
    """An attempt to connect."""

    def __init__(self) -> None:
        self.ended = threading.Event()
        self.error: Exception | None = None


class CassandraSession:
    """Opens and keeps one session; thread-safe."""

    def __init__(
        self, settings: StoreSettings, timeout_s: float, prepare: Callable[[Any, Any], dict[str, Any]], wait: bool
    ) -> None:
        """Read the certificates; nothing is connected yet.

        Args:
            settings: the section `store`.
            timeout_s: longest time of a query, and of a call that starts to connect.
            prepare: `prepare(cluster, session)` creates what is missing and returns the prepared statements.
            wait: wait until connecting has succeeded or failed, however long.

        Raises:
            BadArgument: a file of certificates cannot be read.
        """
        self.settings, self.timeout_s, self._prepare, self._wait = settings, timeout_s, prepare, wait
        self.name = (
            f"cassandra {','.join(settings.cassandra_hosts)}:{settings.cassandra_port}/{settings.cassandra_keyspace}"
        )
        self._tls = tls_context(settings)
        self._connected: Connected | None = None
        self._attempt: _Attempt | None = None
        self._closed = False
        self._lock = threading.Lock()

    @contextlib.contextmanager
    def reached(self) -> Iterator[Connected]:
        """Yield the session; errors of the driver become StoreUnavailable with one sentence.

        Raises:
            StoreUnavailable: there is no session yet, or a call failed.
        """
        connected = self._connected or self._wait_for_session()
        from cassandra import DriverException
        from cassandra.cluster import NoHostAvailable

        try:
            yield connected
        except (DriverException, NoHostAvailable, OSError) as error:
            raise self._unavailable(error) from error

    def _unavailable(self, error: Exception) -> StoreUnavailable:
        from cassandra import InvalidRequest

        if isinstance(error, InvalidRequest):
            return StoreUnavailable(
                f"the {self.name} store has no tables of this version; run `overture release publish`"
            )
        return StoreUnavailable(f"the {self.name} store does not answer ({type(error).__name__})")

    def _wait_for_session(self) -> Connected:
        with self._lock:
            if self._connected is not None:
                return self._connected
            attempt, is_new = self._attempt, self._attempt is None
            if attempt is None:
                attempt = self._attempt = _Attempt()
                threading.Thread(target=self._run, args=(attempt,), name="cassandra-connect", daemon=True).start()
        if is_new or self._wait:
            attempt.ended.wait(None if self._wait else self.timeout_s)
        if self._connected is not None:
            return self._connected
        if attempt.error is not None:
            raise self._unavailable(attempt.error) from attempt.error
        raise StoreUnavailable(f"the {self.name} store is not connected yet")

    def _run(self, attempt: _Attempt) -> None:
        connected = None
        try:
            connected = self._connect()
        except Exception as error:  # whatever the driver raises: the calls report it
            attempt.error = error
        with self._lock:
            self._attempt = None
            if self._closed and connected is not None:
                connected.cluster.shutdown()
            else:
                self._connected = connected
        attempt.ended.set()

    def _connect(self) -> Connected:
        from cassandra import ConsistencyLevel
        from cassandra.auth import PlainTextAuthProvider
        from cassandra.cluster import EXEC_PROFILE_DEFAULT, Cluster, ExecutionProfile
        from cassandra.policies import DCAwareRoundRobinPolicy, ExponentialReconnectionPolicy, TokenAwarePolicy

        settings, handshake_s = self.settings, max(HANDSHAKE_S, self.timeout_s)
        profile = ExecutionProfile(
            load_balancing_policy=TokenAwarePolicy(DCAwareRoundRobinPolicy(settings.cassandra_datacenter)),
            consistency_level=ConsistencyLevel.LOCAL_QUORUM,
            request_timeout=self.timeout_s,
        )
        password = settings.cassandra_password.get_secret_value()
        cluster = Cluster(
            list(settings.cassandra_hosts),
            settings.cassandra_port,
            auth_provider=PlainTextAuthProvider(settings.cassandra_user, password) if settings.cassandra_user else None,
            ssl_context=self._tls,
            execution_profiles={EXEC_PROFILE_DEFAULT: profile},
            reconnection_policy=ExponentialReconnectionPolicy(*RECONNECT_S),
            connect_timeout=handshake_s,
            control_connection_timeout=handshake_s,
        )
        try:
            session = cluster.connect()
            return Connected(cluster, session, self._prepare(cluster, session))
        except BaseException:
            cluster.shutdown()
            raise

    def close(self) -> None:
        """Close the connections, also those of an attempt that is still running."""
        with self._lock:
            self._closed, connected, self._connected = True, self._connected, None
        if connected is not None:
            connected.cluster.shutdown()


def tls_context(settings: StoreSettings) -> ssl.SSLContext | None:
    """Return the TLS settings of the connections to the nodes, or None without TLS.

    The nodes' certificates must be signed by the CA and contain the addresses by which the driver connects.

    Raises:
        BadArgument: a file cannot be read, or only one of certificate and key is set.
    """
    ca, certificate, key = settings.cassandra_ca, settings.cassandra_certificate, settings.cassandra_key
    if bool(certificate) != bool(key) or (certificate and not ca):
        raise BadArgument("store.cassandra_certificate: set cassandra_ca, cassandra_certificate and cassandra_key")
    if not ca:
        return None
    try:
        context = ssl.create_default_context(cafile=ca)
        if certificate:
            context.load_cert_chain(certificate, key)
    except OSError as error:  # ssl.SSLError is one
        files = ", ".join(filter(None, (ca, certificate, key)))
        raise BadArgument(f"store.cassandra_ca: certificates and key cannot be read ({files}): {error}") from None
    return context
