"""Feature spaces in which metrics compare samples."""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any, ClassVar

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from beeline.core.errors import BeelineError, require
from beeline.core.files import digest
from beeline.core.ranges import Count, Positive, dataclass
from beeline.core.rng import Rng
from beeline.core.types import Cond, leaves


@dataclass(frozen=True)
class Identity:
    """Data space itself, flattened.

    f(x) = x
    Assumes that Euclidean distances between encoded data are meaningful, as for tables and points.

    >>> Identity()(torch.zeros(2, 3, 4)).shape
    torch.Size([2, 12])
    """

    learned: ClassVar[bool] = False

    @property
    def name(self) -> str:
        return "data space"

    @property
    def hash(self) -> str:
        return "identity"

    def fit(self, x: Tensor, cond: Cond = None, *, cache: str | os.PathLike[str] | None = None) -> Identity:
        return self

    def __call__(self, x: Tensor) -> Tensor:
        return x.detach().flatten(1).cpu().double()


@dataclass(frozen=True, eq=False)
class Module:
    """The output of a network as features, identified by a hash of its weights.

    f(x) = net(x), flattened, without gradients, in evaluation mode
    Assumes that ``net`` takes encoded data.  LabelAgreement interprets its output as logits.
    Source: Heusel et al. 2017 (arXiv 1706.08500), whose network was an Inception.

    >>> Module(nn.Flatten(), "pixels")(torch.zeros(2, 1, 4)).shape
    torch.Size([2, 4])
    """

    net: nn.Module
    name: str  # in reports
    batch: Count = 512  # batch size
    learned: ClassVar[bool] = False

    @property
    def hash(self) -> str:
        return digest(self.net.state_dict(), type(self.net).__qualname__)

    def fit(self, x: Tensor, cond: Cond = None, *, cache: str | os.PathLike[str] | None = None) -> Module:
        return self

    def __call__(self, x: Tensor) -> Tensor:
        return through(self.net, x, self.batch).flatten(1).double()

    def classify(self, x: Tensor) -> Tensor:
        """The most likely label of each row, [N]."""
        return self(x).argmax(1)


TRIED = 4  # training steps from which the time of a classifier is estimated


@dataclass(frozen=True)
class SmallClassifier:
    """The last hidden layer of a small classifier that is trained on the reference set.

    f(x) = (h(x) - mean) / std, with h the hidden layer, and mean and std over the reference set
    Assumes labels.  Features of networks for photographs, such as Inception, describe digits, spectra or tables poorly;
    these are cheap, and reproducible from the reference set and the settings.
    Source: Lucic et al. 2018 (arXiv 1711.10337), for the use of classifiers of the domain.

    >>> SmallClassifier(steps=300).name
    'small classifier'
    """

    label: str = ""  # name of the condition that holds the labels; empty: the only integer one
    width: Count = 16  # channels of the first layer (images), or a quarter of the hidden units (vectors)
    size: Count = 64  # features; the Frechet distance needs more samples than this
    steps: Count = 600  # training steps; 600 suffices for digits
    batch: Count = 128  # batch size of training
    lr: Positive = 2e-3  # peak learning rate of AdamW with cosine decay
    seed: int = 0
    learned: ClassVar[bool] = True

    @property
    def name(self) -> str:
        return "small classifier"

    @property
    def hash(self) -> str:
        raise BeelineError(self._unfit("hash"))

    def __call__(self, x: Tensor) -> Tensor:
        raise BeelineError(self._unfit("features"))

    def classify(self, x: Tensor) -> Tensor:
        raise BeelineError(self._unfit("labels"))

    def fit(self, x: Tensor, cond: Cond = None, *, cache: str | os.PathLike[str] | None = None) -> Trained:
        """The classifier trained on encoded data and their labels.

        ``cache`` is a directory from which a classifier with the same reference set and settings is loaded, and to
        which it is saved.
        """
        labels = labels_of(cond, self.label, len(x)).cpu()
        x = x.detach().cpu().float()
        classes = int(labels.max()) + 1
        reference, key, file = self._place(x, labels, cache)
        net = self.build(tuple(x.shape[1:]), classes)
        if file is not None and file.exists():
            return Trained(self, _load(net, file, key), classes, reference)
        self._train(net, x, labels)
        if file is not None:
            _save(net, file, key)
        return Trained(self, net, classes, reference)

    def seconds(
        self,
        x: Tensor,
        cond: Cond = None,
        *,
        cache: str | os.PathLike[str] | None = None,
        clock: Callable[[], float] = time.perf_counter,
    ) -> float:
        """The expected time of ``fit``, from a few training steps; 0 where the classifier is in the cache."""
        labels = labels_of(cond, self.label, len(x)).cpu()
        x = x.detach().cpu().float()
        file = self._place(x, labels, cache)[2]
        if file is not None and file.exists():
            return 0.0
        net = self.build(tuple(x.shape[1:]), int(labels.max()) + 1)
        self._steps(net, x, labels, 1)  # the first one takes longer
        begin = clock()
        self._steps(net, x, labels, TRIED)
        return (clock() - begin) / TRIED * self.steps

    def _place(self, x: Tensor, labels: Tensor, cache: str | os.PathLike[str] | None) -> tuple[str, str, Path | None]:
        """The hash of the reference set, that of reference set and settings, and the file in the cache."""
        reference = digest({"x": x, "label": labels})
        key = digest({}, json.dumps(asdict(self), sort_keys=True), reference)
        return reference, key, None if cache is None else Path(cache) / f"classifier-{key[:16]}.safetensors"

    def build(self, shape: tuple[int, ...], classes: int) -> Classifier:
        """The untrained network for data of ``shape``: convolutional with two spatial axes, else dense."""
        with Rng(self.seed, ("classifier",)).ambient():
            return Classifier(shape, classes, self.width, self.size)

    def _train(self, net: Classifier, x: Tensor, labels: Tensor) -> None:
        self._steps(net, x, labels, self.steps)
        hidden = through(net.hidden, x, 512)
        net.centre.copy_(hidden.mean(0))
        # units that are constant over the reference set are not rescaled
        spread = hidden.std(0)
        net.spread.copy_(torch.where(spread > 1e-4 * spread.max(), spread, torch.ones_like(spread)))

    def _steps(self, net: Classifier, x: Tensor, labels: Tensor, count: int) -> None:
        """The first ``count`` training steps."""
        rng = Rng(self.seed, ("classifier", "order"))
        batch = min(self.batch, len(x))
        mean, std = x.mean(), x.std().clamp(min=1e-6)
        net.shift.copy_(mean)
        net.scale.copy_(std)
        optimizer = torch.optim.AdamW(net.parameters(), lr=self.lr, weight_decay=0.01)
        lr = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, self.steps)
        net.train()
        with torch.enable_grad():
            for step in range(count):
                rows = rng.fork(step).integers(len(x), batch)
                logits = net.head(net.hidden(x[rows]))
                loss = nn.functional.cross_entropy(logits, labels[rows], label_smoothing=0.05)
                optimizer.zero_grad()
                torch.autograd.backward(loss)
                optimizer.step()
                lr.step()
        net.eval()

    def _unfit(self, what: str) -> str:
        return (
            f"this SmallClassifier is not fitted, so it has no {what}; call fit(x, cond) with labelled data, or pass "
            "the metric to evaluate(), which does"
        )


@dataclass(frozen=True, eq=False)
class Trained:
    """A SmallClassifier that is fitted to its reference set."""

    settings: SmallClassifier
    net: Classifier
    classes: int
    reference: str  # hash of its training data and labels
    learned: ClassVar[bool] = True

    @property
    def name(self) -> str:
        return self.settings.name

    @property
    def hash(self) -> str:
        return digest(self.net.state_dict())

    def fit(self, x: Tensor, cond: Cond = None, *, cache: str | os.PathLike[str] | None = None) -> Trained:
        return self

    def __call__(self, x: Tensor) -> Tensor:
        return through(self.net, x, 512).double()

    def classify(self, x: Tensor) -> Tensor:
        """The most likely label of each row, [N]."""
        return through(lambda part: self.net.head(self.net.hidden(part)), x, 512).argmax(1)


class Classifier(nn.Module):
    """Convolutions down to about 4 x 4 (two dense layers for vectors), a hidden layer and a linear head."""

    shift: Tensor
    scale: Tensor
    centre: Tensor
    spread: Tensor

    def __init__(self, shape: tuple[int, ...], classes: int, width: int, size: int):
        super().__init__()
        for name in ("shift", "scale"):
            self.register_buffer(name, torch.zeros(()))
        for name in ("centre", "spread"):
            self.register_buffer(name, torch.zeros(size))
        layers: list[nn.Module] = []
        if len(shape) == 3 and min(shape[1:]) >= 4:
            channels, high, wide = shape
            layers += [nn.Conv2d(channels, width, 3, padding=1), nn.SiLU()]
            while min(high, wide) > 4 and width < 256:
                layers += [nn.Conv2d(width, 2 * width, 3, stride=2, padding=1), nn.SiLU()]
                high, wide, width = (high + 1) // 2, (wide + 1) // 2, 2 * width
            layers += [nn.AdaptiveAvgPool2d((min(high, 4), min(wide, 4))), nn.Flatten()]
            inside = width * min(high, 4) * min(wide, 4)
        else:
            inside = 4 * width
            layers += [nn.Flatten(), nn.Linear(math.prod(shape), inside), nn.SiLU()]
        self.body = nn.Sequential(*layers, nn.Linear(inside, size), nn.SiLU())
        self.head = nn.Linear(size, classes)

    def hidden(self, x: Tensor) -> Tensor:
        out: Tensor = self.body((x - self.shift) / self.scale)
        return out

    def forward(self, x: Tensor) -> Tensor:
        return (self.hidden(x) - self.centre) / self.spread


@torch.no_grad()
def through(net: Callable[[Tensor], Tensor], x: Tensor, batch: int) -> Tensor:
    """``net(x)`` in batches on the network's device and in evaluation mode, on the CPU; its mode is restored."""
    if not isinstance(net, nn.Module):
        return torch.cat([net(part.float()).cpu() for part in torch.split(x.detach().cpu(), batch)])
    weight = next(net.parameters(), torch.zeros(()))
    training = net.training
    net.eval()
    try:
        parts = [net(part.to(weight.device, weight.dtype)).cpu() for part in torch.split(x.detach(), batch)]
        return torch.cat(parts)
    finally:
        net.train(training)


def labels_of(cond: Cond, name: str = "", n: int | None = None) -> Tensor:
    """The labels [N] in a condition tree: the leaf ``name``, or the only integer leaf."""
    found = {key: leaf for key, leaf in leaves(cond) if leaf.ndim == 1 and not leaf.is_floating_point()}
    require(
        found,
        "labels are needed, integers with one per sample, but the conditions are "
        f"{sorted(key or '(bare)' for key, _ in leaves(cond)) or 'none'}; give labelled data, or a metric without "
        "labels, such as Energy() or Frechet(Module(net, name))",
    )
    require(
        name in found or (not name and len(found) == 1),
        f"label={name!r}, but the labels of the data are {sorted(found)}; set label= to one of them",
    )
    labels = found[name] if name in found else next(iter(found.values()))
    require(
        n is None or len(labels) == n,
        f"there are {len(labels)} labels for {n} samples; give one label per sample, in the same order",
    )
    require(
        len(labels) > 0 and int(labels.min()) >= 0,
        f"a label is {int(labels.min()) if len(labels) else 'missing'}; classes are numbered from 0; renumber them",
    )
    return labels.long()


def _save(net: Classifier, file: Path, key: str) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    state = {name: part.contiguous() for name, part in net.state_dict().items()}
    part = file.with_name(f"{file.name}.{os.getpid()}.part")
    save_file(state, part, metadata={"key": key, "hash": digest(dict(state))})
    os.replace(part, file)


def _load(net: Classifier, file: Path, key: str) -> Classifier:
    try:
        with safe_open(file, "pt") as stored:
            about: dict[str, Any] = stored.metadata() or {}
            state = {name: stored.get_tensor(name) for name in stored.keys()}  # noqa: SIM118 - not a mapping
        sound = about.get("key") == key and about.get("hash") == digest(state)
    except SafetensorError:
        sound = False
    require(
        sound,
        f"the stored classifier {file} does not match its hash, so it is damaged or was trained with other settings; "
        "delete the file to train it again",
    )
    net.load_state_dict(state)
    return net.eval()
