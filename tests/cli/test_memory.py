"""Memory allocation of the command line."""

import platform
import subprocess
import sys

import pytest

PROGRAM = """
import torch
from pathlib import Path
from beeline.cli.memory import keep_memory
kept = keep_memory() if {keep} else False
pages = lambda: int(Path("/proc/self/statm").read_text().split()[1])
torch.ones(1000)
before = pages()
torch.ones(4_000_000)
print(int(kept), pages() - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc only")
def test_the_memory_of_freed_tensors_is_reused() -> None:
    found = {}
    for keep in (True, False):
        result = subprocess.run([sys.executable, "-c", PROGRAM.format(keep=keep)], capture_output=True, check=True)
        found[keep] = [int(word) for word in result.stdout.split()]
    assert found[True][0] == 1 and found[True][1] > 3500 and found[False][1] < 500  # 16 MB are 3906 pages
