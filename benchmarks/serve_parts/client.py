"""Load for a server: many connections in one thread, with few instructions for a request."""

from __future__ import annotations

import json
import selectors
import socket
import statistics
import time
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

PATIENCE = 120.0  # seconds after the last request in which answers are awaited


@dataclass(frozen=True)
class Answer:
    """What came for request ``number``; status 0 where the connection ended without an answer."""

    number: int
    status: int
    begun: float
    ended: float
    body: bytes = b""

    @property
    def seconds(self) -> float:
        return self.ended - self.begun


def post(body: Any, path: str = "/v1/sample", **headers: str) -> bytes:
    """A request as bytes; ``body`` as JSON."""
    return http("POST", path, json.dumps(body).encode(), **headers)


def http(method: str, path: str, content: bytes = b"", **headers: str) -> bytes:
    """A request as bytes."""
    named = {"Host": "127.0.0.1", "Content-Type": "application/json", "Content-Length": str(len(content)), **headers}
    lines = [f"{method} {path} HTTP/1.1", *(f"{name.replace('_', '-')}: {value}" for name, value in named.items())]
    return "\r\n".join([*lines, "", ""]).encode() + content


class Load:
    """Requests over connections that are kept; ``ask(k)`` is request k as bytes."""

    def __init__(self, port: int, ask: Callable[[int], bytes], keep: bool = False):
        self.port, self.ask, self.keep = port, ask, keep  # keep: the bodies of answers
        self.answers: list[Answer] = []
        self._selector = selectors.DefaultSelector()
        self._asked = 0
        self._idle: list[_Link] = []

    def closed(self, clients: int, seconds: float = float("inf"), most: int | None = None) -> list[Answer]:
        """So many clients, each of which sends its next request after the answer to the last one."""
        end = time.perf_counter() + seconds

        def goes_on() -> bool:
            return time.perf_counter() < end and (most is None or self._asked < most)

        for _ in range(clients):
            if goes_on():
                self._send()
        while self._selector.get_map():
            self._answered(1.0, goes_on)
        return self._end()

    def open(self, rate: float, seconds: float) -> list[Answer]:
        """So many requests a second, however many answers are missing."""
        begun, count = time.perf_counter(), int(rate * seconds)
        while self._asked < count or self._selector.get_map():
            due = min(count, int((time.perf_counter() - begun) * rate) + 1)
            while self._asked < due:
                self._send()
            self._answered(1.0 / rate, lambda: False)
            if time.perf_counter() > begun + seconds + PATIENCE:
                break
        return self._end()

    def _send(self) -> None:
        link = self._idle.pop() if self._idle else _Link(self.port)
        link.begin(self._asked, self.ask(self._asked))
        self._asked += 1
        self._selector.register(link.socket, selectors.EVENT_READ, link)

    def _answered(self, wait: float, again: Callable[[], bool]) -> None:
        for key, _ in self._selector.select(wait):
            link: _Link = key.data
            answer = link.read(self.keep)
            if answer is None:
                continue
            self.answers.append(answer)
            self._selector.unregister(link.socket)
            if answer.status:
                self._idle.append(link)
            else:
                link.socket.close()
            if again():
                self._send()

    def _end(self) -> list[Answer]:
        for key in list(self._selector.get_map().values()):
            key.data.socket.close()
        for link in self._idle:
            link.socket.close()
        self._idle.clear()
        return self.answers


class _Link:
    """A connection that waits for one answer."""

    def __init__(self, port: int):
        self.socket = socket.create_connection(("127.0.0.1", port))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def begin(self, number: int, request: bytes) -> None:
        self.number, self.begun, self.got = number, time.perf_counter(), b""
        self.socket.sendall(request)

    def read(self, keep: bool) -> Answer | None:
        """The answer if it is complete."""
        try:
            more = self.socket.recv(1 << 20)
        except ConnectionError:
            more = b""
        if not more:
            return Answer(self.number, 0, self.begun, time.perf_counter())
        self.got += more
        head, found, body = self.got.partition(b"\r\n\r\n")
        if not found:
            return None
        at = head.lower().find(b"content-length:")
        length = int(head[at + 15 :].split(b"\r\n", 1)[0]) if at >= 0 else 0
        if len(body) < length:
            return None
        return Answer(self.number, int(head[9:12]), self.begun, time.perf_counter(), body if keep else b"")


def once(port: int, request: bytes) -> tuple[int, bytes]:
    """Status and body of one request."""
    answer = Load(port, lambda k: request, keep=True).closed(1, most=1)[0]
    return answer.status, answer.body


def statuses(answers: Iterable[Answer]) -> dict[str, int]:
    """How often each status came; "0" is a connection that ended without an answer."""
    return {str(status): count for status, count in sorted(Counter(a.status for a in answers).items())}


def percentiles(answers: Iterable[Answer]) -> dict[str, float]:
    """Median, 99th percentile and largest of the times, in ms."""
    times = sorted(1000 * a.seconds for a in answers)
    if not times:
        return {}
    return {
        "p50_ms": round(statistics.median(times), 3),
        "p99_ms": round(times[min(len(times) - 1, int(0.99 * len(times)))], 3),
        "largest_ms": round(times[-1], 3),
    }


def rate(answers: list[Answer]) -> float:
    """Answers a second, from the first request to the last answer."""
    return len(answers) / (max(a.ended for a in answers) - min(a.begun for a in answers))
