"""The Inception network of the Frechet Inception distance, with the weights that are published for it."""

from __future__ import annotations

import functools
import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from beeline.core.errors import BeelineError, require
from beeline.core.files import load_matching, read_tensors, sha256
from beeline.core.ranges import dataclass
from beeline.objectives.losses.encoders import EncoderBase

SIDE = 299  # pixels of the input
FILE = "weights-inception-2015-12-05-6726825d.pth"
ALSO = "pt_inception-2015-12-05-6726825d.pth"  # the same weights, as another package stores them
URL = f"https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/{FILE}"
PUBLISHED = "6726825d"  # the beginning of the SHA-256 of both files


@dataclass(frozen=True)
class Inception(EncoderBase):
    """Features of the Inception network of 2015, in which the standard Frechet and kernel distances are computed.

    f(x) = mean over places of the last block, for resize(pixels, 299) / 128 - 1, with 2048 numbers
    Assumes pictures in [-1, 1] of one or three channels, and the published weights, which are never downloaded.  The
    resizing is the bilinear one of TensorFlow 1, without antialiasing.
    Source: Heusel et al. 2017 (arXiv 1706.08500); Szegedy et al. 2016 (arXiv 1512.00567).

    >>> Inception("weights.pth").weights
    'weights.pth'
    """

    weights: str = ""  # .pth file of the published weights, or .safetensors; empty: the file in the cache of torch.hub

    def __post_init__(self) -> None:
        object.__setattr__(self, "weights", str(self.weights))

    @property
    def name(self) -> str:
        return "Inception" if self.hash.startswith(PUBLISHED) else f"Inception of {Path(self.weights).name}"

    @property
    def hash(self) -> str:
        return _hash(*_state(self.weights))

    def __call__(self, x: Tensor) -> Tensor:
        """Features [B,2048] in float32; with a graph where ``x`` has one."""
        require(
            x.ndim == 4 and x.shape[1] in (1, 3) and min(x.shape[2:]) > 0,
            f"Inception was given data of shape {tuple(x.shape)}; it takes pictures [B,C,H,W] of one or three "
            "channels: use features for other data, such as those of a bundle",
        )
        net = _network(*_state(self.weights)).to(x.device)
        pixels = (x.float() + 1) * 127.5
        features: Tensor = net((resized(pixels.expand(-1, 3, -1, -1), SIDE) - 128) / 128)
        return features


def resized(x: Tensor, side: int) -> Tensor:
    """Pictures [B,C,H,W] as [B,C,side,side] by the bilinear interpolation of TensorFlow 1.

    Pixel i of the result is at i H / side of the picture: corners are not aligned, centres of pixels are not shifted.
    """
    for axis in (2, 3):
        n = x.shape[axis]
        at = torch.arange(side, dtype=torch.float32, device=x.device) * (n / side)
        low = at.long().clamp(max=n - 1)
        part = (at - low).to(x.dtype).reshape(-1, *(1,) * (3 - axis))
        x = torch.lerp(x.index_select(axis, low), x.index_select(axis, (low + 1).clamp(max=n - 1)), part)
    return x


# ------------------------------------------------------------------------------------------------------------ network


Kernel = int | tuple[int, int]  # height and width in pixels


class Step(NamedTuple):
    """One convolution of a branch, by the name of its weights in the published file."""

    name: str
    width: int  # channels of its output
    kernel: Kernel = 1
    stride: int = 1


Branch = Sequence[Step | nn.Module | tuple[Step, ...]]  # a tuple of steps at the end: side by side


class Convolution(nn.Module):
    """A convolution without bias, batch normalisation and a ReLU."""

    def __init__(self, width: int, out: int, kernel: Kernel, stride: int = 1, padded: bool = True):
        super().__init__()
        high, wide = (kernel, kernel) if isinstance(kernel, int) else kernel
        padding = (high // 2, wide // 2) if padded else 0
        self.conv = nn.Conv2d(width, out, (high, wide), stride, padding, bias=False)
        self.bn = nn.BatchNorm2d(out, eps=1e-3)

    def forward(self, x: Tensor) -> Tensor:
        return self.bn(self.conv(x)).relu_()


class Mixed(nn.Module):
    """Branches whose outputs are concatenated."""

    def __init__(self, width: int, *branches: Branch):
        super().__init__()
        self.branches, self.width = branches, 0
        for branch in branches:
            inside = width
            for part in branch:
                steps = part if type(part) is tuple else (part,)
                for step in steps:
                    if isinstance(step, Step):
                        padded = step.stride == 1
                        self.add_module(step.name, Convolution(inside, step.width, step.kernel, step.stride, padded))
                inside = sum(s.width for s in steps if isinstance(s, Step)) or inside
            self.width += inside

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self._through(branch, x) for branch in self.branches], 1)

    def _through(self, branch: Branch, x: Tensor) -> Tensor:
        for part in branch:
            if isinstance(part, Step):
                x = self.get_submodule(part.name)(x)
            elif isinstance(part, nn.Module):
                x = part(x)
            else:
                x = torch.cat([self.get_submodule(step.name)(x) for step in part], 1)
        return x


class InceptionNetwork(nn.Module):
    """The convolutional part of the network, [B,3,299,299] to [B,2048], with the names of the published weights."""

    def __init__(self) -> None:
        super().__init__()
        self.Conv2d_1a_3x3 = Convolution(3, 32, 3, 2, padded=False)
        self.Conv2d_2a_3x3 = Convolution(32, 32, 3, padded=False)
        self.Conv2d_2b_3x3 = Convolution(32, 64, 3)
        self.pool_1 = nn.MaxPool2d(3, 2)
        self.Conv2d_3b_1x1 = Convolution(64, 80, 1)
        self.Conv2d_4a_3x3 = Convolution(80, 192, 3, padded=False)
        self.pool_2 = nn.MaxPool2d(3, 2)
        width = 192
        for name, branches in _blocks().items():
            block = Mixed(width, *branches)
            self.add_module(name, block)
            width = block.width

    def forward(self, x: Tensor) -> Tensor:
        for part in self.children():
            x = part(x)
        return x.mean((2, 3))


def _blocks() -> dict[str, list[Branch]]:
    """The branches of every block."""

    def mean() -> nn.Module:
        return nn.AvgPool2d(3, 1, 1, count_include_pad=False)

    def deep(widths: Sequence[int], stride: int = 1) -> Branch:
        a, b, c = widths
        return [Step("branch3x3dbl_1", a), Step("branch3x3dbl_2", b, 3), Step("branch3x3dbl_3", c, 3, stride)]

    def first(pooled: int) -> list[Branch]:
        return [
            [Step("branch1x1", 64)],
            [Step("branch5x5_1", 48), Step("branch5x5_2", 64, 5)],
            deep((64, 96, 96)),
            [mean(), Step("branch_pool", pooled)],
        ]

    def second(c: int) -> list[Branch]:
        wide, high = (1, 7), (7, 1)
        chain: list[tuple[int, Kernel]] = [(c, 1), (c, high), (c, wide), (c, high), (192, wide)]
        return [
            [Step("branch1x1", 192)],
            [Step("branch7x7_1", c), Step("branch7x7_2", c, wide), Step("branch7x7_3", 192, high)],
            [Step(f"branch7x7dbl_{i}", width, kernel) for i, (width, kernel) in enumerate(chain, 1)],
            [mean(), Step("branch_pool", 192)],
        ]

    def third(pool: nn.Module) -> list[Branch]:
        def split(name: str) -> tuple[Step, Step]:
            return Step(f"{name}a", 384, (1, 3)), Step(f"{name}b", 384, (3, 1))

        return [
            [Step("branch1x1", 320)],
            [Step("branch3x3_1", 384), split("branch3x3_2")],
            [Step("branch3x3dbl_1", 448), Step("branch3x3dbl_2", 384, 3), split("branch3x3dbl_3")],
            [pool, Step("branch_pool", 192)],
        ]

    ways: list[tuple[int, Kernel]] = [(192, 1), (192, (1, 7)), (192, (7, 1))]
    return {
        "Mixed_5b": first(32),
        "Mixed_5c": first(64),
        "Mixed_5d": first(64),
        "Mixed_6a": [[Step("branch3x3", 384, 3, 2)], deep((64, 96, 96), 2), [nn.MaxPool2d(3, 2)]],
        "Mixed_6b": second(128),
        "Mixed_6c": second(160),
        "Mixed_6d": second(160),
        "Mixed_6e": second(192),
        "Mixed_7a": [
            [Step("branch3x3_1", 192), Step("branch3x3_2", 320, 3, 2)],
            [*(Step(f"branch7x7x3_{i}", *way) for i, way in enumerate(ways, 1)), Step("branch7x7x3_4", 192, 3, 2)],
            [nn.MaxPool2d(3, 2)],
        ],
        "Mixed_7b": third(mean()),
        "Mixed_7c": third(nn.MaxPool2d(3, 1, 1)),  # a maximum, as in the published graph
    }


# ------------------------------------------------------------------------------------------------------------ weights


def weights_file(weights: str = "") -> Path:
    """The file of the weights; ValueError says where to get it."""
    cache = Path(torch.hub.get_dir()) / "checkpoints"
    places = [Path(weights)] if weights else [cache / FILE, cache / ALSO]
    found = next((place for place in places if place.is_file()), None)
    if found is None:
        raise BeelineError(
            f"the weights of Inception are not in {' or '.join(map(str, places))}, and nothing is downloaded unasked; "
            f"download {URL} (91 MB) to {cache / FILE}, or give the file with --weights FILE"
        )
    return found


def _state(weights: str) -> tuple[Path, float]:
    """The file of the weights and the time of its last change."""
    file = weights_file(weights)
    return file, os.stat(file).st_mtime


@functools.lru_cache(maxsize=2)
def _hash(file: Path, changed: float) -> str:
    return sha256(file)


@functools.lru_cache(maxsize=1)
def _network(file: Path, changed: float) -> InceptionNetwork:
    """The network with the weights of a file; pickled files are read as tensors alone."""
    if file.suffix == ".safetensors":
        tensors = read_tensors(file)
    else:
        try:
            tensors = torch.load(file, map_location="cpu", weights_only=True)
        except Exception as error:  # whatever the reader meets in a damaged file
            raise BeelineError(
                f"{file} cannot be read as a file of tensors ({str(error).splitlines()[0][:80]}); it is damaged or "
                f"holds something else: download {URL} again"
            ) from None
    require(isinstance(tensors, dict), f"{file} holds {type(tensors).__name__}, not weights by name; download {URL}")
    net = InceptionNetwork()
    counters = {k: v for k, v in net.state_dict().items() if k.endswith("num_batches_tracked")}  # of training, unused
    load_matching(net, counters | {k: v for k, v in tensors.items() if not k.startswith("fc.")}, str(file))
    return net.eval().requires_grad_(False)
