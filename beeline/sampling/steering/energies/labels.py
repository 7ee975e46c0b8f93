"""Classifiers as energies, and their calibration."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import torch
from scipy.optimize import minimize_scalar
from torch import Tensor, nn

from beeline.core.errors import require
from beeline.core.modes import eval_mode
from beeline.core.ranges import Count, NonNegative, Positive, Whole, dataclass
from beeline.core.types import Cond


@dataclass(frozen=True)
class Label:
    """Minus the log-probability of a label under a classifier.

    E = -(f_y - marginal log sum_k exp f_k),  f = classifier(x1) / temperature,  y the label
    With ``marginal=1`` it is -log p(y | x1), with 0 the joint energy -log p(x1, y) without its constant.
    Assumes a differentiable classifier of clean data for controllers that follow gradients.
    Source: Dhariwal and Nichol 2021 (arXiv 2105.05233); Ma et al. 2023, "Elucidating The Design Space of
    Classifier-Guided Diffusion Generation" (arXiv 2310.11311), with temperature and marginal.

    >>> energy = Label(lambda x1: torch.tensor([[0.0, 1.0]]), label=1)
    >>> round(float(energy(torch.zeros(1, 2), torch.ones(1))), 4)
    0.3133
    """

    classifier: Callable[[Tensor], Tensor]  # logits of clean data: [B,*S] -> [B,K]
    label: Whole | None = None  # the wanted one, for all samples; None: that of the condition
    temperature: Positive = 1.0  # divides the logits; ``calibrated`` finds one
    marginal: NonNegative = 1.0  # weight of the normalisation
    name: str = "label"  # of the condition; a bare tensor has none

    def __call__(self, x1: Tensor, t: Tensor, cond: Cond = None) -> Tensor:
        logits = self.classifier(x1)
        require(
            logits.ndim == 2 and len(logits) == len(x1),
            f"the classifier returned shape {tuple(logits.shape)} for {len(x1)} samples; Label needs a logit for every "
            "class: return [B,K]",
        )
        wanted = self._wanted(len(x1), logits.shape[1], cond, logits.device)
        scaled = logits / self.temperature
        return self.marginal * scaled.logsumexp(1) - scaled.gather(1, wanted[:, None])[:, 0]

    def _wanted(self, n: int, classes: int, cond: Cond, device: torch.device) -> Tensor:
        """The labels [n]."""
        if self.label is not None:
            require(
                self.label < classes,
                f"Label got label={self.label} and a classifier of {classes} classes; give a label from 0 to "
                f"{classes - 1}",
            )
            return torch.full((n,), self.label, device=device)
        found: Any = cond.get(self.name) if isinstance(cond, Mapping) else cond
        require(
            isinstance(found, Tensor) and found.shape == (n,) and not found.is_floating_point(),
            f"Label got no label and found none under the condition {self.name!r}; give label=, or sample with a "
            "condition of one whole number for each sample",
        )
        assert isinstance(found, Tensor)
        return found.to(device)


def calibrated(energy: Label, x: Tensor, labels: Tensor) -> Label:
    """The energy with the temperature of the lowest mean -log p(label) on held-out data.

    ``x`` [N,*S] are clean data, or predictions of them where these are what the classifier will see; ``labels`` [N]
    are whole numbers.
    Source: Guo et al. 2017, "On Calibration of Modern Neural Networks" (arXiv 1706.04599).
    """
    logits = logits_of(energy.classifier, x, labels)
    target = labels.to(logits.device)

    def loss(log: float) -> float:
        return float(nn.functional.cross_entropy(logits / torch.tensor(log).exp(), target))

    found = minimize_scalar(loss, bounds=(-5.0, 5.0), method="bounded", options={"xatol": 1e-4})
    return replace(energy, temperature=float(torch.tensor(found.x).exp()))


def calibration_error(energy: Label, x: Tensor, labels: Tensor, bins: Count = 15) -> float:
    """The expected calibration error of a classifier: the mean of |accuracy - confidence| over bins of confidence.

    0 is calibrated; the arguments are those of ``calibrated``.  Few data per bin raise it.
    Source: Guo et al. 2017 (arXiv 1706.04599).
    """
    p, made = (logits_of(energy.classifier, x, labels) / energy.temperature).softmax(1).max(1)
    right = (made == labels.to(made.device)).double()
    index = (p * bins).long().clamp(max=bins - 1)
    gaps = torch.zeros(bins, dtype=torch.float64, device=p.device).index_add_(0, index, right - p)
    return float(gaps.abs().sum() / len(p))


def softened(classifier: nn.Module, beta: float = 3.0) -> nn.Module:
    """A copy of a classifier with smooth gradients: every ReLU becomes log(1 + exp(beta x)) / beta.

    Source: Ma et al. 2023 (arXiv 2310.11311).
    """
    require(beta > 0, f"softened got beta={beta}; the sharpness of a softplus is above 0: 3 to 5 is usual")
    made = copy.deepcopy(classifier)
    for module in list(made.modules()):
        for name, part in list(module._modules.items()):  # named_children() leaves out what has a second name
            if isinstance(part, nn.ReLU):
                setattr(module, name, nn.Softplus(beta=beta))
    return made


def logits_of(classifier: Callable[[Tensor], Tensor], x: Tensor, labels: Tensor) -> Tensor:
    """The logits [N,K] of data in float64; ValueError for labels that do not fit."""
    with eval_mode(classifier):
        logits = classifier(x).double()
    require(
        logits.ndim == 2
        and labels.shape == (len(logits),)
        and 0 <= int(labels.min()) <= int(labels.max()) < logits.shape[1],
        f"the classifier returned shape {tuple(logits.shape)} for labels of shape {tuple(labels.shape)}; calibration "
        "compares them row by row: give logits [N,K] and labels [N] from 0 to K-1",
    )
    return logits
