"""A server as a process of its own."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from benchmarks.serve_parts.client import http, once

START = 120.0  # seconds in which a server has to be ready


class Server:
    """A process of ``beeline serve`` with the given arguments, on a free port of the loopback address."""

    def __init__(self, *arguments: str | Path):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port: int = probe.getsockname()[1]
        self.errors = tempfile.TemporaryFile()  # noqa: SIM115
        command = [sys.executable, "-m", "beeline", "serve", *map(str, arguments), "--port", str(self.port)]
        self.process = subprocess.Popen(command, stderr=self.errors, stdout=self.errors)

    def wait(self) -> None:
        """Wait until the models are loaded."""
        end = time.monotonic() + START
        while time.monotonic() < end and self.process.poll() is None:
            with contextlib.suppress(OSError):
                if once(self.port, http("GET", "/ready"))[0] == 200:
                    return
            time.sleep(0.1)
        raise RuntimeError(f"the server is not ready: {self.said()}")

    def said(self) -> str:
        """What the process wrote."""
        self.errors.seek(0)
        return self.errors.read().decode()

    def memory(self) -> int:
        """Bytes of memory that the process has."""
        found = re.search(r"VmRSS:\s+(\d+) kB", Path(f"/proc/{self.process.pid}/status").read_text())
        return 1024 * int(found[1]) if found else 0

    def seconds(self) -> float:
        """Processor time of the process."""
        parts = Path(f"/proc/{self.process.pid}/stat").read_text().rsplit(")", 1)[1].split()
        return (int(parts[11]) + int(parts[12])) / os.sysconf("SC_CLK_TCK")

    def batches(self) -> dict[int, int]:
        """How many evaluations had up to so many rows, by the sizes that are used."""
        text = once(self.port, http("GET", "/metrics"))[1].decode()
        found = re.findall(r'beeline_batch_rows_bucket\{[^}]*le="(\d+)"\} (\d+)', text)
        sizes, before = {}, 0
        for size, total in found:
            sizes[int(size)], before = int(total) - before, int(total)
        return sizes

    def kill(self) -> None:
        """End the process at once."""
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    def close(self) -> None:
        """End the process, which finishes what runs."""
        self.process.send_signal(signal.SIGINT)
        try:
            self.process.wait(60)
        except subprocess.TimeoutExpired:
            self.kill()


@contextlib.contextmanager
def serving(*arguments: str | Path) -> Iterator[Server]:
    """A server that is ready, for the time of the context."""
    server = Server(*arguments)
    try:
        server.wait()
        yield server
    finally:
        server.close()
