"""Data of any supported form as a feed."""

from __future__ import annotations

from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from beeline.core.declared import missing
from beeline.core.errors import BeelineError, require
from beeline.core.protocols.data import DataSet
from beeline.core.protocols.training import Feed, Microbatches
from beeline.core.rng import Rng
from beeline.core.types import Batch
from beeline.training.feed.datasets import FromDataset, from_loader
from beeline.training.feed.microbatches import FromDistribution, InMemory, Stateless


@runtime_checkable
class CanSample(Protocol):
    """A distribution: ``sample`` returns a tensor or a Batch of n data."""

    def sample(self, n: int, rng: Rng) -> Any: ...


def as_microbatches(data: Any, rng: Rng) -> Feed:
    """The feed of a tensor or NumPy array [N,*S], a Batch, a torch Dataset or DataLoader, a data set of
    ``beeline.data``, a distribution with ``sample(n, rng)``, or an object with ``microbatch(number, size)``.

    Arrays of float64 are converted to torch's default dtype.  Of a data set of ``beeline.data`` the training data are
    used, encoded by its modality.  Raises BeelineError for data of other types, and for tensors and arrays that are not
    floating point.
    """
    if isinstance(data, np.ndarray) and data.dtype.kind in "biuf":
        data = torch.as_tensor(data)
        data = data.to(torch.get_default_dtype()) if data.dtype == torch.float64 else data
    if isinstance(data, Tensor):
        require(
            data.is_floating_point() and data.ndim >= 2,
            f"the data are {data.dtype} of shape {tuple(data.shape)}, but training needs floating point numbers "
            "[N,*S]; encode them with a modality, or convert them",
        )
        data = Batch(data)
    if isinstance(data, Batch):
        return InMemory(data, rng)
    if isinstance(data, Feed):
        return data
    if isinstance(data, Microbatches):
        return Stateless(data)
    if isinstance(data, Dataset):
        return FromDataset(data, rng)
    if isinstance(data, DataLoader):
        return from_loader(data, rng)
    if not missing(data, DataSet):
        raw, _ = data.load()
        return as_microbatches(data.modality().fit(raw).encode(raw), rng)
    if isinstance(data, CanSample):
        return FromDistribution(data, rng)
    raise BeelineError(
        f"data of type {type(data).__name__} have neither microbatch(number, size) nor sample(n, rng); give a "
        "tensor [N,*S], a Batch, a torch Dataset, a distribution, or an object with microbatch(number, size)"
    )
