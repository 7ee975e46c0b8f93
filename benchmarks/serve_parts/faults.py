"""Malformed requests."""

from __future__ import annotations

import argparse
import json
import random
from collections.abc import Callable
from typing import Any

from benchmarks.serve_parts.client import Load, http, post, statuses
from benchmarks.serve_parts.server import serving

GOOD = {"n": 2, "seed": 7, "condition": {"label": 3}, "sampler": {"solver": "EULER"}}
VALUES: tuple[Any, ...] = (
    None, -1, 0, 1e300, 2**70, "", "x" * 5000, [], {}, [[]], True, "Bespoke('/etc/passwd')", "__import__('os')",
    {"label": 99}, {"label": "three"}, {"label": [1, 2, 3]}, {"lable": 1}, "\x00", "é" * 100, [{}] * 50,
)  # fmt: skip
PATHS = ("/v1/sample", "/v1/jobs", "/v1/images/generations", "/v1/images/edits", "/v1/edit", "/v1/score")
KEYS = ("model", "n", "seed", "seeds", "condition", "sampler", "priority", "sead", "prompt", "image", "mask", "size")


def malformed(given: argparse.Namespace) -> dict[str, Any]:
    """Statuses of malformed requests, tracebacks, and memory after each fifth of them."""
    draw = random.Random(given.seed)
    requests = [made(draw) for _ in range(given.malformed)]
    with serving(given.demo / "distilled") as server:
        Load(server.port, lambda k: post(GOOD)).closed(8, most=200)
        answers, memory, part = [], [server.memory()], max(1, given.malformed // 5)
        for first in range(0, given.malformed, part):
            asked = requests[first : first + part]
            answers += Load(server.port, asked.__getitem__, keep=True).closed(8, most=len(asked))
            memory.append(server.memory())
        alive = Load(server.port, lambda k: post(GOOD)).closed(1, most=1)[0].status
        said = server.said()
    wrong = [a for a in answers if a.status >= 400]
    return {
        "requests": given.malformed,
        "statuses": statuses(answers),
        "server_errors": sum(a.status >= 500 for a in answers),
        "errors_in_the_one_form": sum(in_form(a.body, a.status) for a in wrong) / max(1, len(wrong)),
        "tracebacks": said.count("Traceback"),
        "memory_mib": [round(m / 2**20, 1) for m in memory],
        "grown_mib_after_the_first_fifth": round((memory[-1] - memory[1]) / 2**20, 2),
        "status_afterwards": alive,
    }


def in_form(body: bytes, status: int) -> bool:
    """Whether a body is an error in the form that every error has."""
    try:
        found = json.loads(body)
    except ValueError:
        return False
    return isinstance(found, dict) and found.get("error", {}).get("status") == status


def made(draw: random.Random) -> bytes:
    """A request that is wrong in one way."""
    ways: tuple[Callable[[random.Random], bytes], ...] = (_value, _bytes, _half, _deep, _head)
    return draw.choice(ways)(draw)


def _value(draw: random.Random) -> bytes:
    body: dict[str, Any] = json.loads(json.dumps(GOOD))
    for _ in range(draw.randint(1, 3)):
        inside = body["sampler"] if draw.random() < 0.3 and isinstance(body["sampler"], dict) else body
        inside[draw.choice((*KEYS, "steps", "solver", "schedule", "guidance_scale"))] = draw.choice(VALUES)
    if isinstance(body["n"], int) and body["n"] > 0 and draw.random() < 0.5:
        body["unknown"] = 1
    return post(body, draw.choice(PATHS))


def _bytes(draw: random.Random) -> bytes:
    content = bytearray(json.dumps(GOOD).encode())
    for _ in range(draw.randint(1, 8)):
        content[draw.randrange(len(content))] = draw.randrange(256)
    return http("POST", draw.choice(PATHS), bytes(content))


def _half(draw: random.Random) -> bytes:
    content = json.dumps(GOOD).encode()
    return http("POST", draw.choice(PATHS), content[: draw.randrange(len(content))])


def _deep(draw: random.Random) -> bytes:
    depth = draw.choice((50, 500, 5000))
    return http("POST", draw.choice(PATHS), b"[" * depth + b"]" * draw.choice((0, depth)))


def _head(draw: random.Random) -> bytes:
    method, path = (
        draw.choice(("POST", "PUT", "DELETE", "PATCH", "GET")),
        draw.choice((*PATHS, "/v1/jobs/none", "/../x")),
    )
    headers = draw.choice(
        ({"Content_Type": "text/plain"}, {"Accept": "video/mp4"}, {"Authorization": "Bearer \xff"}, {"Accept": ""})
    )
    content = json.dumps({**GOOD, "n": 0}).encode()
    return http(method, path, content, **headers)
