"""Every delta of the library peft whose layer is affine in its input."""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping
from dataclasses import field
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from beeline.core.errors import extra, nearest, require
from beeline.core.ranges import dataclass
from beeline.core.rng import Rng
from beeline.networks.adapters.delta import Delta

BASE = "base_model.model.site.base_layer."  # before the weight and the bias of the layer inside peft's
MOVED = "_moved"  # what a start took out of the weight


class _Site(nn.Module):
    """A network of one linear layer, which peft adapts."""

    def __init__(self, w: Tensor):
        super().__init__()
        self.site = nn.Linear(w.shape[1], len(w))
        with torch.no_grad():
            self.site.weight.copy_(w)
            self.site.bias.zero_()

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.site(x)
        return out


@dataclass(frozen=True)
class Peft(Delta):
    """A delta of the library peft, read from its layer by running it on the identity.

    W' = (layer(I) - layer(0))^T,  b' = layer(0),  which is exact for every layer that is affine in its input
    ``config`` is the name of its configuration without "Config".  Lily and Poly are refused: their layers are not
    affine.  Some do not start at the network with their own settings (FourierFT, VBLoRA, UniLora).  Needs the
    extra ``peft``.
    Source: Mangrulkar et al. 2022, PEFT; each of its methods names its own.

    >>> Peft("HRA", {"r": 4}).config
    'HRA'
    """

    config: str = "Lora"
    settings: Mapping[str, Any] = field(default_factory=dict)
    moves_bias: ClassVar[bool] = True

    def start(self, w: Tensor) -> dict[str, Tensor]:
        made = self._adapted(w)
        trained = {name for name, p in made.named_parameters() if p.requires_grad}
        numbers = {
            ("" if name in trained else "_") + name.replace(".", "/"): value.detach().clone()
            for name, value in (*made.named_parameters(), *made.named_buffers())
            if not name.startswith(BASE)
        }
        base = dict(made.named_parameters())[BASE + "weight"].detach()
        moved = {} if torch.equal(base, w) else {MOVED: base - w}  # starts that take a part out of the weight
        with torch.no_grad():
            for p in made.parameters():  # a router may do nothing while its branches are zero
                p.add_(0.1 * nn.init.normal_(torch.empty_like(p)) if p.requires_grad else 0)
            x = nn.init.normal_(torch.empty(3, w.shape[1]))
            rows = [
                made(row[None])[0] for row in (*x, x.sum(0), torch.zeros(w.shape[1]))
            ]  # one by one: some look at all
        one, two, three, whole, zero = rows
        affine = torch.allclose(one + two + three - 2 * zero, whole, atol=1e-4 * float(whole.abs().max() + 1))
        require(
            affine,
            f"{self.config} of peft is not affine in the input of a layer, so that no weight can be like it; valid are "
            "those whose layer is, such as Lora, HRA, OFT, LoHa or FourierFT",
        )
        return numbers | moved

    def weight(self, w: Tensor, p: Mapping[str, Tensor]) -> Tensor:
        eye = torch.eye(w.shape[1], device=w.device, dtype=w.dtype)
        out = self._run(torch.cat([eye, torch.zeros_like(eye[:1])]), w, None, p)
        return (out[:-1] - out[-1:]).mT

    def bias(self, b: Tensor, w: Tensor, p: Mapping[str, Tensor]) -> Tensor:
        return self._run(w.new_zeros(1, w.shape[1]), w, b, p)[0]

    def _run(self, x: Tensor, w: Tensor, b: Tensor | None, p: Mapping[str, Tensor]) -> Tensor:
        """The outputs [N,out] of peft's layer with these numbers."""
        like = _template(self.config, json.dumps(dict(self.settings), sort_keys=True), *w.shape, str(w.device))
        given = {name.removeprefix("_").replace("/", "."): v for name, v in p.items() if name != MOVED}
        given[BASE + "weight"] = w + p[MOVED] if MOVED in p else w
        given[BASE + "bias"] = w.new_zeros(len(w)) if b is None else b
        made: Tensor = torch.func.functional_call(like, given, (x,))
        return made

    def _adapted(self, w: Tensor) -> nn.Module:
        peft = extra("peft", "peft")
        names = {name.removesuffix("Config"): name for name in dir(peft) if name.endswith("Config")}
        require(self.config in names, f"peft has no {self.config}Config; {nearest(self.config, names)}")
        try:
            config = vars(peft)[names[self.config]](**{"target_modules": ["site"], **self.settings})
            made: nn.Module = peft.get_peft_model(_Site(w), config)
            made(torch.zeros(1, w.shape[1]))
        except (TypeError, ValueError, KeyError, RuntimeError, NotImplementedError, AttributeError) as error:
            require(
                False,
                f"peft refused {self.config}({dict(self.settings)}) for a layer of {w.shape[1]} x {len(w)} "
                f"({type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}); change its settings, "
                "or choose the layers by layers=",
            )
        return made.eval()


@functools.lru_cache(maxsize=64)
def _template(config: str, settings: str, out: int, into: int, device: str) -> nn.Module:
    """The layer of peft for one size, whose numbers are given in every call."""
    with Rng(0).ambient():
        return Peft(config, json.loads(settings))._adapted(torch.zeros(out, into)).to(device)
