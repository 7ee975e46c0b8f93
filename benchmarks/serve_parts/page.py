"""The page without a browser: everything that it loads, and its first picture."""

from __future__ import annotations

import argparse
import re
import statistics
import time
from typing import Any

from benchmarks.serve_parts.client import http, once, post
from benchmarks.serve_parts.server import serving


def page(given: argparse.Namespace) -> dict[str, Any]:
    """Seconds of the page, of the files that it names, and of one picture, asked for one after another."""
    runs = []
    with serving(given.demo / "distilled", "--page") as server:
        for repeat in range(given.repeats):
            begun = time.perf_counter()
            status, html = once(server.port, http("GET", "/"))
            text = html.decode()
            files = [name for name in re.findall(r'(?:src|href)="([^":#?]+)"', text)]
            size = len(html)
            for name in files:
                size += len(once(server.port, http("GET", name if name.startswith("/") else f"/{name}"))[1])
            once(server.port, http("GET", "/v1/models"))
            picture = once(server.port, post({"seed": repeat, "condition": {"label": 3}}, Accept="image/png"))
            assert (status, picture[0]) == (200, 200), (status, picture)
            runs.append(time.perf_counter() - begun)
    return {
        "seconds": round(statistics.median(runs), 4),
        "runs": [round(s, 4) for s in runs],
        "files": files,
        "kilobytes": round(size / 1000, 1),
    }
