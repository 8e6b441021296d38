"""An S3 API on loopback (moto) in a process of its own, whose responses a test can replace by errors.

Not in a thread of the test: some functions of delta-rs hold Python's lock while they wait for a response.
"""

import json
import subprocess
import sys
import urllib.request
from contextlib import contextmanager
from pathlib import Path

BUCKET = "music"
CREDENTIALS = {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_REGION": "us-east-1"}
ROOT = Path(__file__).parents[2]
CONTROL = "/_fault"


class S3Server:
    """Address, environment and faults of a running server.

    Attributes:
        url: its address.
        environment: the variables that clients need.
    """

    def __init__(self, port: int) -> None:
        self.url = f"http://127.0.0.1:{port}"
        self.environment = {**CREDENTIALS, "AWS_ENDPOINT_URL": self.url, "AWS_ALLOW_HTTP": "true"}

    def fail(self, method: str, path: str, kind: int | str, times: int = -1) -> None:
        """Respond to requests of a method whose path contains a text with an HTTP status, or cut the connection.

        Args:
            method: HTTP method.
            path: part of the path.
            kind: HTTP status, or "cut".
            times: number of requests; -1: all.
        """
        self._control({"method": method, "path": path, "kind": kind, "left": times})

    def heal(self) -> int:
        """Respond normally again; return how many requests failed."""
        return int(self._control({}))

    def _control(self, fault: dict) -> str:
        request = urllib.request.Request(self.url + CONTROL, json.dumps(fault).encode(), method="POST")
        with urllib.request.urlopen(request) as response:
            return response.read().decode()


@contextmanager
def s3_server():
    """Run a server with one empty bucket."""
    command = [sys.executable, "-m", "tests.helpers.s3_server"]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            server = S3Server(int(process.stdout.readline()))
            request = urllib.request.Request(f"{server.url}/{BUCKET}", method="PUT")
            urllib.request.urlopen(request).close()  # the port is open before it is printed
            yield server
        finally:
            process.stdin.close()  # the server ends with its input
            process.wait(20)


def main() -> None:
    import threading

    from moto.server import DomainDispatcherApplication, create_backend_app
    from werkzeug.serving import WSGIRequestHandler, make_server

    app, fault, failed = DomainDispatcherApplication(create_backend_app), {}, [0]

    class Handler(WSGIRequestHandler):
        def log(self, type, message, *args):
            pass

    def respond(environ, start_response):
        method, path = environ["REQUEST_METHOD"], environ["PATH_INFO"]
        if path == CONTROL:
            body = json.loads(environ["wsgi.input"].read(int(environ["CONTENT_LENGTH"])))
            fault.clear()
            fault.update(body)
            count, failed[0] = str(failed[0]), 0
            start_response("200 OK", [("Content-Length", str(len(count)))])
            return [count.encode()]
        query = environ["QUERY_STRING"].replace("%2F", "/")
        if fault and method == fault["method"] and fault["path"] in f"{path}?{query}" and fault["left"]:
            fault["left"] -= 1
            failed[0] += 1
            if fault["kind"] == "cut":
                environ["werkzeug.socket"].close()
                return []
            start_response(f"{fault['kind']} fault", [("Content-Length", "0")])
            return [b""]
        return app(environ, start_response)

    server = make_server("127.0.0.1", 0, respond, threaded=True, request_handler=Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    print(server.server_port, flush=True)
    sys.stdin.read()
    server.shutdown()


if __name__ == "__main__":
    main()
