"""A TCP relay in front of a server: it passes bytes on, or fails as networks and servers do.

    with Relay(server_port) as relay:          # clients connect to 127.0.0.1:relay.port
        relay.mode = "silent"                  # from now on, also for the connections that are open

pass     bytes go through
silent   connections are accepted, and nothing is sent or answered, as by a server that hangs or behind a firewall
drop     connections are closed
reset    connections are reset (RST)
delay    answers arrive after `delay_s`
half     the first half of an answer arrives and the rest does not

What `silent`, `delay` and `half` hold back arrives when the mode changes to `pass`, as after a network partition.
Several relays can run at once, one per server of a cluster.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
import struct
import threading
from typing import Literal, get_args

Mode = Literal["pass", "silent", "drop", "reset", "delay", "half"]
MODES: tuple[Mode, ...] = get_args(Mode)
FAILING = MODES[1:]


class Relay:
    """A relay in a thread of this process. `accepted` counts the connections."""

    def __init__(
        self,
        port: int,
        host: str = "127.0.0.1",
        mode: Mode = "pass",
        delay_s: float = 2.0,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        """Describe a relay; it listens on a free port of 127.0.0.1 after `start`.

        Args:
            port: port of the server.
            host: address of the server.
            mode: what happens to connections at first.
            delay_s: delay of each piece of an answer, in seconds.
            tls: certificate for the clients; the server is reached without TLS.
        """
        self.target, self.delay_s, self.tls, self.accepted, self.port = (host, port), delay_s, tls, 0, 0
        self._mode: Mode = mode
        self._loop = asyncio.new_event_loop()
        self._changed = asyncio.Event()
        self._open: set[asyncio.StreamWriter] = set()
        self._thread = threading.Thread(target=self._loop.run_forever, name="relay", daemon=True)

    @property
    def mode(self) -> Mode:
        """What happens to connections now."""
        return self._mode

    @mode.setter
    def mode(self, mode: Mode) -> None:
        asyncio.run_coroutine_threadsafe(self._change(mode), self._loop).result()

    async def _change(self, mode: Mode) -> None:
        self._mode = mode
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()
        if mode in ("drop", "reset"):
            for writer in tuple(self._open):
                self._close(writer)

    def start(self) -> Relay:
        """Listen on a free port."""
        self._thread.start()
        self._server = asyncio.run_coroutine_threadsafe(self._listen(), self._loop).result()
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def _listen(self) -> asyncio.Server:
        return await asyncio.start_server(self._serve, "127.0.0.1", 0, ssl=self.tls, backlog=512)

    def stop(self) -> None:
        """Close all connections and the port."""
        asyncio.run_coroutine_threadsafe(self._end(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _end(self) -> None:
        self._server.close()
        tasks = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def __enter__(self) -> Relay:
        """Start the relay."""
        return self.start()

    def __exit__(self, *_: object) -> None:
        """Stop the relay."""
        self.stop()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.accepted += 1
        self._open.add(writer)
        try:
            if self._mode in ("drop", "reset"):
                return
            with contextlib.suppress(OSError):  # either side may end the connection at any time
                to_reader, to_writer = await asyncio.open_connection(*self.target)
                self._open.add(to_writer)
                async with asyncio.TaskGroup() as tasks:
                    tasks.create_task(self._pump(reader, to_writer, answers=False))
                    tasks.create_task(self._pump(to_reader, writer, answers=True))
                self._open.discard(to_writer)
        finally:
            self._close(writer)

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, answers: bool) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(65_536):
                if answers and self._mode == "delay":
                    await self._until_changed(self.delay_s)
                if answers and self._mode == "half":
                    half, data = data[: (len(data) + 1) // 2], data[(len(data) + 1) // 2 :]
                    writer.write(half)
                while self._mode == "silent" or (answers and self._mode == "half"):
                    await self._until_changed(None)
                writer.write(data)
                await writer.drain()
        self._close(writer)

    async def _until_changed(self, seconds: float | None) -> None:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._changed.wait(), seconds)

    def _close(self, writer: asyncio.StreamWriter) -> None:
        self._open.discard(writer)
        if self._mode == "reset" and (end := writer.get_extra_info("socket")) is not None:
            with contextlib.suppress(OSError):
                end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        writer.transport.abort() if self._mode == "reset" else writer.close()
