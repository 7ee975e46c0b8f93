"""One thread per test process: small kernels slow down several-fold with two."""

import pytest
import torch

torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _keep_global_random_state():
    """Nothing in the package may touch the global random state."""
    before = torch.random.get_rng_state()
    yield
    assert torch.equal(before, torch.random.get_rng_state()), "the global random state of torch was changed"
