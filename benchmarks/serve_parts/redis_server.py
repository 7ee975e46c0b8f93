"""A Redis on the loopback address: redis-server where it is installed, else the imitation of fakeredis."""

from __future__ import annotations

import contextlib
import shutil
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


@contextlib.contextmanager
def real() -> Iterator[str]:
    """The address of a redis-server that ends with the context; LookupError where none is installed."""
    program = shutil.which("redis-server")
    if program is None:
        raise LookupError("redis-server is not installed")
    port = free_port()
    with tempfile.TemporaryDirectory() as folder:
        command = [program, "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--dir", folder]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        try:
            for _ in range(500):
                with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port)):
                    break
                time.sleep(0.02)
            yield f"redis://127.0.0.1:{port}/0"
        finally:
            process.terminate()
            process.wait(10)


@contextlib.contextmanager
def imitated() -> Iterator[str]:
    """The address of fakeredis in a thread of this process; LookupError where it is not installed."""
    try:
        import lupa  # noqa: F401  # for scripts
        from fakeredis import TcpFakeServer
    except ImportError:
        raise LookupError("fakeredis with Lua is not installed") from None
    server: Any = TcpFakeServer(("127.0.0.1", free_port()), server_type="redis")
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"redis://127.0.0.1:{server.server_address[1]}/0"
    finally:
        server.shutdown()
        server.server_close()


SERVERS: dict[str, Callable[[], contextlib.AbstractContextManager[str]]] = {
    "redis-server": real,
    "fakeredis": imitated,
}


@contextlib.contextmanager
def some() -> Iterator[tuple[str, str]]:
    """The first server that there is: its name and its address."""
    with contextlib.ExitStack() as stack:
        for name, server in SERVERS.items():
            with contextlib.suppress(LookupError):
                yield name, stack.enter_context(server())
                return
        raise LookupError("neither redis-server nor fakeredis with Lua is installed; install one of them")
