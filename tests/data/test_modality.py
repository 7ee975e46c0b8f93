"""Data sets, modalities and metrics of a user's own, written from the protocols alone."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
import torch

import beeline as bl
from beeline.config.build import describe
from beeline.core.rng import Rng
from beeline.data.metric import MetricBase, complete_metric
from beeline.data.modality import DataSetBase, ModalityBase, check_modality, complete
from beeline.evaluation.scores import measure
from beeline.runs.run import Run, prepare


@dataclass(frozen=True)
class Angles(ModalityBase):
    """Angles in degrees, as multiples of a half turn."""

    shape: tuple[int, ...] = ()

    def fit(self, raw: np.ndarray) -> Angles:
        return Angles((1,))

    def encode(self, raw: np.ndarray, rng: Rng | None = None) -> bl.Batch:
        return bl.Batch(torch.from_numpy(raw).float()[:, None] / 180)

    def decode(self, x: torch.Tensor) -> np.ndarray:
        return (x[:, 0] * 180).numpy()


class Compass:
    """A data set with nothing but the two members of the protocol."""

    def load(self) -> tuple[np.ndarray, np.ndarray]:
        angles = np.linspace(-180, 180, 60, endpoint=False)
        return angles[::2], angles[1::2]

    def modality(self) -> Angles:
        return Angles()


@dataclass(frozen=True)
class Gap:
    """A metric with nothing but the members of the protocol."""

    name = "gap of means"
    better = "lower"

    def __call__(self, real: torch.Tensor, made: torch.Tensor, rng: Rng) -> float:
        return float((real.mean() - made.mean()).abs())


def test_a_minimal_data_set_and_modality_work_in_a_run() -> None:
    with pytest.raises(ValueError, match="prepared|catalogue|list"):  # without a name it cannot be saved
        describe(Compass())
    data = complete(Compass())
    assert data.summary() == "" and data.microbatches(Angles(), Rng(0)) is None
    work = prepare(Run(Compass(), {"is": "networks.MLP", "width": 8, "depth": 1}))  # type: ignore[arg-type]
    assert work.rows.shape == (30, 1)
    bundle = bl.Bundle(bl.Flow(work.networks), bl.Sampler(2), Angles((1,)))
    assert bundle.sample(4).shape == (4,) and b"<pre>" in bundle.modality.preview(bundle.sample(2))
    with pytest.raises(ValueError, match="Angles has no conditions"):
        bundle.sample(2, cond=3)
    with pytest.raises(ValueError, match="no file format"):
        bundle.modality.save(bundle.sample(2), None)


def test_what_lacks_a_member_is_refused_with_its_signature() -> None:
    class NoModality:
        def load(self) -> None: ...

    class Partial(NoModality):
        def modality(self) -> None: ...

        def summary(self) -> str:
            return "partial"

    class Bare:
        shape = (1,)

    with pytest.raises(ValueError, match=r"NoModality has no modality\(\), which a DataSet needs"):
        complete(NoModality())
    with pytest.raises(
        ValueError, match=r"Partial has no endpoints\(batch, held, rng\).*read_file\(path\).*DataSetBase"
    ):
        complete(Partial())
    with pytest.raises(ValueError, match=r"Bare has no .*decode\(x\).*fit\(raw\).*ModalityBase"):
        check_modality(Bare())
    with pytest.raises(ValueError, match="Bare has no .*encode"):
        bl.Bundle(bl.Flow(torch.nn.Identity()), modality=Bare())
    with pytest.raises(ValueError, match="compass.csv was to be read as Plain"):

        class Plain(DataSetBase):
            pass

        Plain().read_file("compass.csv")


def test_a_minimal_metric_works_and_a_partial_one_is_refused() -> None:
    real, made = torch.zeros(40, 1), torch.ones(40, 1)
    (score,) = measure([Gap()], real, made, Rng(0))
    assert score.value == 1.0 and score.evaluator == "Gap" and score.baseline == 0.0 and score.interval is not None

    class Conditional(Gap):
        conditional = True

    with pytest.raises(ValueError, match=r"Conditional has no evaluator, fit\(x, cond=None.*MetricBase"):
        complete_metric(Conditional())
    with pytest.raises(ValueError, match="float has no __call__"):
        complete_metric(0.5)

    class Told(MetricBase):
        name, better, conditional, resampled = "told", "lower", True, False

        def __call__(self, real: torch.Tensor, made: torch.Tensor, rng: Rng, *, cond: torch.Tensor) -> float:
            return float(cond.float().mean())

    (score,) = measure([Told()], real, made, Rng(0), cond=torch.arange(40), real_cond=torch.arange(40))
    assert score.value == 19.5 and score.interval is None
