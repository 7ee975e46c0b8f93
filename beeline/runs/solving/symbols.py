"""Known symbols of sequences, held at their state on the path."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from beeline.core.errors import require
from beeline.core.host_times import host_times
from beeline.core.protocols.flows import SymbolPath
from beeline.core.protocols.steering import Controller, Run
from beeline.core.rng import Rng
from beeline.sampling.steering.controller import ControllerBase, OfRun
from beeline.spaces.tokens import MaskTokens


@dataclass(frozen=True)
class KnownSymbols(ControllerBase):
    """Holds known symbols at a random state of the path to them, after every step.

    x_i = state of the path at t from x0_i to the known symbol i; the symbol itself for a source of masks
    The others see the known symbols as clearly as their time allows, too little at early times: a bias, which a source
    of masks does not have.
    """

    start: Tensor  # [B,L,K] source points
    symbols: Tensor  # [B,L,K] one-hot
    known: Tensor  # [B,L,K] booleans
    rng: Rng = Rng(0)

    def for_rows(self, start: int, end: int) -> KnownSymbols:
        part = slice(start, end)
        rows = self.rng.fork("rows", start)
        return replace(self, start=self.start[part], symbols=self.symbols[part], known=self.known[part], rng=rows)

    def for_run(self, run: Run) -> Controller:
        path: Any = run.flow.path
        require(
            isinstance(path, SymbolPath),
            f"known symbols are held on a path of symbols, and this flow has {type(path).__name__}; train it with the "
            "recipe 'sequences'",
        )

        def correct(x: Tensor, t: Tensor) -> Tensor:
            start, symbols, known = (part.to(x.device) for part in (self.start, self.symbols, self.known))
            if isinstance(run.flow.source, MaskTokens):
                return torch.where(known, symbols, x)
            rng = self.rng.fork("known", float(host_times(t).flatten()[0]))
            return torch.where(known, path.state(start, symbols, t, rng), x)

        return OfRun(correct=correct)
