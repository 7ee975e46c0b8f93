"""A filter of pairs by a classifier."""

from __future__ import annotations

from dataclasses import field, replace

from torch import Tensor

from beeline.core.errors import require
from beeline.core.protocols.data import Features, LabelFeatures
from beeline.core.protocols.training import PairFilter
from beeline.core.ranges import dataclass
from beeline.core.types import Batch
from beeline.evaluation.features import SmallClassifier, labels_of


@dataclass(frozen=True)
class Agreeing(PairFilter):
    """The pairs whose datum a classifier gives the label of their condition.

    classify(x1) = label
    Assumes a classifier, by default a small one that is trained on the data of the teacher.

    >>> import torch
    >>> from torch import nn
    >>> from beeline.evaluation.features import Module
    >>> pairs = Batch(torch.eye(2), cond={"label": torch.tensor([0, 0])})
    >>> Agreeing(Module(nn.Identity(), "argmax"))(pairs)
    tensor([ True, False])
    """

    classifier: Features = field(default_factory=SmallClassifier)  # with classify(x) -> [N]
    label: str = ""  # name of the condition that holds the labels; empty: the only integer one

    def fit(self, data: Batch | None) -> PairFilter:
        require(
            data is not None or not self.classifier.learned,
            "Agreeing trains its classifier on the data of the teacher, which are not known; give the data, or a "
            "trained classifier such as Module(net, name)",
        )
        return self if data is None else replace(self, classifier=self.classifier.fit(data.x1, data.cond))

    def __call__(self, pairs: Batch) -> Tensor:
        classifier = self.classifier
        require(
            isinstance(classifier, LabelFeatures),
            f"Agreeing was given {type(classifier).__name__}, which has no classify(x), so it gives no labels; give "
            "SmallClassifier() or Module(net, name) with a network that returns logits",
        )
        assert isinstance(classifier, LabelFeatures)
        return classifier.classify(pairs.x1) == labels_of(pairs.cond, self.label, len(pairs.x1)).to(pairs.x1.device)
