"""Which layers are trained in a step: those that matter most so far, drawn at random."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn

from beeline.core.errors import require
from beeline.core.modes import eval_mode
from beeline.core.rng import Rng
from beeline.networks.adapters.delta import changed_layers
from beeline.training.callbacks import CallbackBase


class SampledLayers(CallbackBase):
    """A callback of training after which only some adapted layers are trained, drawn by their importance.

    layers ~ softmax(I) without replacement;  for ``trials`` random halves of the layers with the amount ``response``:
    I_l += rate (r - mean r) for the layers with their full amount,  r = exp(-loss)
    The others move by no bit, and the optimizer has no moments of layers that were never drawn.  ``loss(network)`` has
    to use the same random numbers in every call.  The importance is not part of checkpoints.  For one process.
    Source: Yao et al. 2024, "Layer-wise Importance Matters: Less Memory for Better Performance in Parameter-efficient
    Fine-tuning of Large Language Models" (arXiv 2410.11772).
    """

    name = "sampled layers"

    def __init__(
        self,
        loss: Callable[[nn.Module], float],
        count: int,
        rng: Rng,
        every: int = 10,
        trials: int = 3,
        response: float = 0.25,
        rate: float = 10.0,
    ):
        require(
            count >= 1 and every >= 1 and trials >= 0,
            f"SampledLayers got count={count}, every={every} and trials={trials}; give numbers from 1, and trials from "
            "0, with which layers are drawn evenly",
        )
        self.loss, self.count, self.rng, self.every = loss, count, rng, every
        self.trials, self.response, self.rate = trials, response, rate
        self.importance = torch.zeros(0, dtype=torch.float64)
        self.active: list[str] = []

    def watch(self, networks: Mapping[str, nn.Module]) -> None:
        (network,) = networks.values()
        layers = changed_layers(network)
        require(
            len(layers) >= self.count,
            f"SampledLayers got count={self.count} and a network with {len(layers)} adapted layers; give a smaller "
            "count, or a network with an adapter",
        )
        self.importance = torch.zeros(len(layers), dtype=torch.float64)
        self._draw(network, 0)

    def evaluate(self, raw: nn.Module, ema: nn.Module | None, step: int) -> dict[str, Any]:
        """Update the importance, and draw the layers of the next steps."""
        changes: list[Any] = [layer.changes[-1] for layer in changed_layers(raw).values()]
        kept, rewards = [], []
        with eval_mode(raw):
            for trial in range(self.trials):
                order = self.rng.fork("suppressed", step, trial).permutation(len(changes)).tolist()
                off = set(order[: len(changes) // 2])
                amounts = [change.amount for change in changes]
                for i in off:
                    changes[i].amount = self.response
                rewards.append(self.loss(raw))
                for change, amount in zip(changes, amounts, strict=True):
                    change.amount = amount
                kept.append([i not in off for i in range(len(changes))])
        if rewards:
            r = torch.tensor(rewards, dtype=torch.float64).neg().exp()
            self.importance += self.rate * ((r - r.mean())[:, None] * torch.tensor(kept)).sum(0)
        self._draw(raw, step)
        return {"active": list(self.active)}

    def _draw(self, network: nn.Module, step: int) -> None:
        layers = changed_layers(network)
        u = self.rng.fork("drawn", step).uniform(len(layers), self.importance)
        gumbel = -(-u.clamp(1e-12, 1 - 1e-12).log()).log()  # the largest are a draw without replacement
        chosen = set((self.importance + gumbel).topk(self.count).indices.tolist())
        self.active = [name for i, name in enumerate(layers) if i in chosen]
        for i, layer in enumerate(layers.values()):
            last: Any = layer.changes[-1]
            last.requires_grad_(i in chosen)
