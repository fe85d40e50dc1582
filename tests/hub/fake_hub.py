"""A Hub on this machine for the real `huggingface_hub` client: HTTP, tokens, faults on demand."""

import contextlib
import json
import re
import threading
import traceback
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

from tests.hub.fake_repositories import Repository
from tests.hub.fake_routes import ROUTES, Answer, Call, refuse


@dataclass
class Fault:
    """Something that goes wrong with the next requests of a kind.

    Attributes:
        request: pattern of method and path, such as `"POST .*/commit/"`.
        kind: "status" (answer with `status` and do nothing), "cut" (close the connection and do
            nothing), "lost" (do it, and close the connection without an answer), "half" (close it
            in the middle of the answer's body), "stall" (never answer) or "slow" (byte by byte).
        times: so many requests, then no more.
        status: for "status".
        message: for "status"; a page of HTML instead of JSON if it starts with "<".
        headers: for "status".
    """

    request: str
    kind: str
    times: int = 1
    status: int = 500
    message: str = "Internal Error"
    headers: dict[str, str] = field(default_factory=dict)


class FakeHub:
    """The Hub. `url` is its address; everything it stores and was asked is open to tests.

    Args:
        uses_lfs: whether large kinds of files come by LFS; otherwise all are in the commit.
    """

    def __init__(self, uses_lfs: bool = False):
        self.uses_lfs = uses_lfs
        self.users = {"hf_" + "a" * 34: ("ada", "write"), "hf_" + "r" * 34: ("rae", "read")}
        self.repositories: dict[str, Repository] = {}
        self.objects: dict[str, bytes] = {}
        self.faults: list[Fault] = []
        self.requests: list[str] = []
        self.problems: list[str] = []
        self.released = threading.Event()
        self.lock = threading.Lock()
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), type("_", (_Handler,), {"hub": self}))
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True).start()

    def close(self) -> None:
        """Stop serving."""
        self.released.set()
        self.server.shutdown()
        self.server.server_close()

    def fail(self, request: str, kind: str, **fields) -> None:
        """Arm a :class:`Fault`."""
        self.faults.append(Fault(request, kind, **fields))

    def fault_for(self, request: str) -> Fault | None:
        """The fault that hits a request, now used once more."""
        for fault in self.faults:
            if fault.times > 0 and re.search(fault.request, request):
                fault.times -= 1
                return fault
        return None

    def count(self, request: str) -> int:
        """How many requests matched a pattern of method and path."""
        return sum(bool(re.search(request, each)) for each in self.requests)

    def answer(self, method: str, path: str, query: dict, token: str | None, body: bytes) -> Answer:
        """Do what a request asks for."""
        if token is not None and token not in self.users:
            return refuse(401, "Invalid credentials in Authorization header")
        for pattern, route in ROUTES:
            if match := re.fullmatch(pattern, f"{method} {path}"):
                user, role = self.users.get(token or "", (None, None))
                call = Call(self, query, user, role, body)
                names = match.groupdict()
                with self.lock:
                    return call.check(names) or route(call, **names)
        self.problems.append(f"no such route: {method} {path}")
        return refuse(404, "Not found")


class _Handler(BaseHTTPRequestHandler):
    """HTTP/1.1, one thread for each connection."""

    protocol_version = "HTTP/1.1"
    hub: FakeHub

    def log_message(self, format, *args):
        """Print nothing."""

    def handle_request(self) -> None:
        parts = urlsplit(self.path)
        request = f"{self.command} {parts.path}"
        body = self._body()  # all of it, or what is left would be read as the next request
        self.hub.requests.append(request)
        fault = self.hub.fault_for(request)
        kind = fault.kind if fault else None
        if kind == "stall" and not self.hub.released.wait(10):
            self.hub.problems.append(f"waited 10 s for {request}")
        if kind in ("stall", "cut"):
            self.close_connection = True
            return
        if fault and kind == "status":
            page = fault.message.encode() if fault.message.startswith("<") else None
            answer = Answer(page) if page else refuse(fault.status, fault.message)
            self._send(Answer(answer.content, fault.status, answer.headers | fault.headers), None)
            return
        query = {key: values[0] for key, values in parse_qs(parts.query).items()}
        scheme, _, token = self.headers.get("Authorization", "").partition(" ")
        token = token if scheme == "Bearer" else None
        try:
            answer = self.hub.answer(self.command, parts.path, query, token, body)
        except Exception:
            self.hub.problems.append(traceback.format_exc())
            answer = refuse(500, "the fake Hub has a defect")
        if kind == "lost":
            self.close_connection = True
            return
        self._send(answer, kind)

    do_GET = do_HEAD = do_POST = do_PUT = handle_request

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        body = b""
        while size := int(self.rfile.readline(), 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return body

    def _send(self, answer: Answer, kind: str | None) -> None:
        is_bytes = isinstance(answer.content, bytes)
        content = answer.content if is_bytes else json.dumps(answer.content).encode()
        assert isinstance(content, bytes)
        status, headers = answer.status, dict(answer.headers)
        if is_bytes and (wanted := re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))):
            start, total = int(wanted[1]), len(content)
            content, status = content[start:], 206
            headers["Content-Range"] = f"bytes {start}-{total - 1}/{total}"
        self.send_response(status)
        headers["Content-Type"] = "application/octet-stream" if is_bytes else "application/json"
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command == "HEAD":
            return
        if kind == "half":
            content, self.close_connection = content[: len(content) // 2], True
        pieces = [content[i : i + 1] for i in range(len(content))] if kind == "slow" else [content]
        with contextlib.suppress(ConnectionError):  # who asked may have gone
            for piece in pieces:
                self.wfile.write(piece)
                self.wfile.flush()
