"""One thread per test process, and the same fresh seeds in every run."""

import random
import secrets
import zlib

import pytest
import torch

torch.set_num_threads(1)  # small kernels slow down several-fold with two


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Runs of several processes first: they wait more than they compute, and one worker shall have all of them."""
    items.sort(key=lambda item: "training/test_parallel" not in item.nodeid)


@pytest.fixture(autouse=True)
def fresh_seeds(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Calls without a seed draw one; here it depends on the test alone, so that a statistic does not vary."""
    monkeypatch.setattr(secrets, "randbits", random.Random(zlib.crc32(request.node.nodeid.encode())).getrandbits)
