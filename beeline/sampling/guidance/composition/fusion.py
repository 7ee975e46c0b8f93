"""Two guided fields, of which one is used at every position of an image."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from beeline.core.declared import is_map
from beeline.core.errors import require
from beeline.core.protocols.flows import Guidance, Reference
from beeline.core.ranges import NonNegative, Positive, dataclass
from beeline.core.types import Cond, Dynamics
from beeline.sampling.blur import gaussian_blur
from beeline.sampling.guidance.dependence import needs_evaluation
from beeline.sampling.guidance.guide import Guide, OfGuide


@dataclass(frozen=True)
class SaliencyFusion(OfGuide):
    """At every position the guided velocity of the field that reacts more to the condition there (MagicFusion).

    v = v_1 where softmax(weight S_1) >= softmax(S_2), v_2 elsewhere;  S = blur(mean over channels |strong - weak|)
    The softmax is over the positions of an image.  Both fields are guided by the same rule and kind of reference.
    Assumes images [B,C,H,W], and a second field with the same path, source and conditions.
    Source: Zhao et al. 2023, "MagicFusion: Boosting Text-to-Image Generation Performance by Fusing Diffusion Models"
    (arXiv 2303.13126).

    >>> from beeline.sampling.guidance.guide import CFG, Weak
    >>> SaliencyFusion(CFG(3.0, null=10), Weak(lambda x, t, cond: x)).calls(0.5)
    4
    """

    guidance: Guidance  # a Guide without a window, such as CFG(scale)
    other: Reference  # the second field: Weak(field) or WeakBundle(path)
    weight: Positive = 1.0  # above 1 favours the field of the run where it is salient
    deviation: NonNegative = 1.0  # of the blur of saliency, in pixels

    def __post_init__(self) -> None:
        require(
            isinstance(self.guidance, Guide) and self.guidance.window == (0.0, 1.0),
            f"SaliencyFusion got {self.guidance}; saliency is the difference of the two predictions of a Guide at "
            "every time: give one without a window, such as CFG(3.0)",
        )
        needs_evaluation(self.other, "SaliencyFusion")

    def __call__(self, field: Any, cond: Cond) -> Dynamics:
        guide = self.guide
        pairs = [(field, cond), self.other(field, cond)]
        require(
            not any(is_map(one) for one, _ in pairs),
            "SaliencyFusion got a flow map; its saliency is that of velocities: use two velocity fields",
        )
        predictions = [guide.predictions(*pair)[1] for pair in pairs]
        rules = [guide.rule.for_run() for _ in pairs]

        def f(x: Tensor, t: Tensor) -> Tensor:
            require(
                x.ndim == 4,
                f"SaliencyFusion got states of shape {tuple(x.shape)}; it compares positions of images [B,C,H,W]: use "
                "Conjunction",
            )
            both = [predict(x, t) for predict in predictions]
            maps = [gaussian_blur((strong - weak).abs().mean(1), self.deviation) for strong, weak in both]
            first, second = (
                torch.softmax((weight * s).flatten(1), 1).view_as(s)
                for weight, s in zip((self.weight, 1.0), maps, strict=True)
            )
            v, w = (rule(strong, weak, x, t) for rule, (strong, weak) in zip(rules, both, strict=True))
            return torch.where((first >= second)[:, None], v, w)

        return f

    def calls(self, t: float) -> int:
        return 2 * self.guide.calls(t)
