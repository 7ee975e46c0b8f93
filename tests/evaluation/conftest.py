"""torch-fidelity as a reference.  It imports torchvision for other networks, so that an empty one stands in for it."""

import sys
import types

import pytest


@pytest.fixture(scope="session")
def fidelity():
    pytest.importorskip("numpy")
    names = ["torchvision", "torchvision.datasets", "torchvision.transforms", "torchvision.transforms.functional"]
    added = {name: types.ModuleType(name) for name in names if name not in sys.modules}
    for name, module in added.items():
        head, _, tail = name.rpartition(".")
        if head:
            setattr(sys.modules[head], tail, module)
        sys.modules[name] = module
    if "torchvision.datasets" in added:
        for data in ("CIFAR10", "STL10", "CIFAR100"):
            setattr(added["torchvision.datasets"], data, object)
    try:
        return pytest.importorskip("torch_fidelity")
    finally:
        for name in added:
            del sys.modules[name]
