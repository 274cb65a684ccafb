"""A webhook's other end on 127.0.0.1: answers as told, checks every signature, keeps what it got."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from connectors.webhooks import BadSignature, verify

KEY = bytes(range(32))
Answer = int | str | Callable[[int], "int | str"]


class Receiver:
    """answer: a status, `stall` (says nothing until `release`), `drip` (a header byte now and then), `close`, or a function of how many came before."""

    def __init__(self, answer: Answer = 204, keys: tuple[bytes, ...] = (KEY,)) -> None:
        self.answer = answer
        self.keys = keys
        self.got: list[tuple[str, dict[str, Any], dict[str, str]]] = []
        """(webhook-id, body, headers) of every request whose signature is right."""
        self.bad: list[str] = []
        self.clock: Callable[[], float] = time.time
        self.released = threading.Event()
        self.arrived = threading.Condition()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                outer._take(self)

            def do_GET(self) -> None:  # where a redirect would lead
                outer.bad.append("GET")
                self.send_response(200)
                self.end_headers()

            def log_message(self, *args: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        self._thread.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}/hook?x=1"

    @property
    def ids(self) -> list[str]:
        return [one for one, _, _ in self.got]

    def wait(self, count: int, timeout_s: float = 60.0) -> None:
        """Wait until so many requests have come."""
        with self.arrived:
            assert self.arrived.wait_for(lambda: len(self.got) >= count, timeout_s), f"{len(self.got)} of {count}; {self.bad}"

    def close(self) -> None:
        self.released.set()
        self._server.shutdown()
        self._server.server_close()

    def _take(self, request: BaseHTTPRequestHandler) -> None:
        raw = request.rfile.read(int(request.headers["content-length"]))
        headers = dict(request.headers.items())
        answer = self.answer(len(self.got)) if callable(self.answer) else self.answer
        with self.arrived:
            try:
                self.got.append((verify(self.keys, headers, raw, self.clock()), json.loads(raw), headers))
            except BadSignature as error:
                self.bad.append(str(error))
            self.arrived.notify_all()
        if answer == "stall":
            self.released.wait(60)
        elif answer == "drip":
            while not self.released.wait(0.05):
                try:
                    request.wfile.write(b"H")
                    request.wfile.flush()
                except OSError:
                    return
        elif isinstance(answer, int):
            request.send_response(answer)
            if 300 <= answer < 400:
                request.send_header("location", "/elsewhere")
            request.send_header("content-length", "0")
            request.end_headers()
