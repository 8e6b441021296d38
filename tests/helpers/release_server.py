"""An HTTP server on loopback over a folder, with ETag and Range, whose responses a test can replace by errors."""

from __future__ import annotations

import hashlib
import threading
from collections import Counter
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path


class ReleaseServer:
    """A running server.

    Attributes:
        url: its address.
        faults: part of a path -> HTTP status, or the number of bytes after which the connection is cut ("cut 100").
        requests: (path, status) -> number of responses.
        ranges: whether `Range` is supported.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self.faults, self.requests, self.ranges = folder, {}, Counter(), True
        owner = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_):
                pass

            def do_GET(self):
                owner.respond(self)

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_port}"

    def respond(self, handler) -> None:
        fault = next((kind for part, kind in self.faults.items() if part in handler.path), None)
        file = self.folder / handler.path.lstrip("/")
        status, content, headers = 200, b"", {}
        if isinstance(fault, int):
            status = fault
        elif not file.is_file():
            status = 404
        else:
            content = file.read_bytes()
            headers["ETag"] = f'"{hashlib.sha256(content).hexdigest()[:16]}"'
            wanted = handler.headers.get("Range")
            if handler.headers.get("If-None-Match") == headers["ETag"]:
                status, content = 304, b""
            elif wanted and self.ranges:
                start = int(wanted.removeprefix("bytes=").rstrip("-"))
                headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
                status, content = 206, content[start:]
        self.requests[handler.path, status] += 1
        handler.send_response(status)
        for name, value in headers.items():
            handler.send_header(name, value)
        handler.send_header("Content-Length", str(len(content)))
        handler.end_headers()
        if isinstance(fault, str):
            content = content[: int(fault.split()[1])]
            handler.close_connection = True
        handler.wfile.write(content)


@contextmanager
def release_server(folder: Path):
    """Run a server over a folder."""
    server = ReleaseServer(folder)
    thread = threading.Thread(target=server.server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.server.shutdown()
        server.server.server_close()
        thread.join()
