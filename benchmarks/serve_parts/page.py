"""The first picture of the page: in a browser, and as the requests that a browser makes."""

from __future__ import annotations

import argparse
import re
import shutil
import statistics
import time
from typing import Any

from benchmarks import report
from benchmarks.serve_parts.client import http, once, post
from benchmarks.serve_parts.server import serving


def page(given: argparse.Namespace) -> dict[str, Any]:
    """Seconds of the page, its files and one picture, asked for one after another, and in a browser."""
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
        seen = in_browser(server.port, given.repeats)
    return {
        "seconds": round(statistics.median(runs), 4),
        "runs": [round(s, 4) for s in runs],
        "in_a_browser": seen
        and {
            "seconds": round(statistics.median(seen), 3),
            "runs": [round(s, 3) for s in seen],
        },
        "files": files,
        "kilobytes": round(size / 1000, 1),
    }


def in_browser(port: int, repeats: int) -> list[float] | None:
    """Seconds to the first picture by the clock of the page, without a cache; None without Chromium."""
    program = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if program is None or not report.installed("playwright"):
        return None
    from playwright.sync_api import sync_playwright

    runs = []
    with sync_playwright() as started:
        browser = started.chromium.launch(executable_path=program, args=["--no-sandbox"])
        for _ in range(repeats):
            context = browser.new_context()
            page = context.new_page()
            page.goto(f"http://127.0.0.1:{port}/")
            while (first := page.evaluate("document.body.dataset.first")) is None:
                page.wait_for_timeout(20)
            runs.append(float(first) / 1000)
            context.close()
        browser.close()
    return runs
