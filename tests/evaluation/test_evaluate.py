"""The report: baselines, intervals, provenance, and what is refused before any work."""

import io
import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from rich.console import Console

from beeline.core.declared import Declaring, Traits
from beeline.core.errors import BeelineError
from beeline.core.rng import Rng
from beeline.core.types import Batch
from beeline.couplings.sources import Uniform
from beeline.data.distributions.mixtures import Gaussian, GaussianMixture
from beeline.data.images import Image, Images
from beeline.evaluation.evaluate import Extras, conditions, evaluate, usual
from beeline.evaluation.features import SmallClassifier
from beeline.evaluation.heldout import HeldOut
from beeline.evaluation.metrics import Energy, Frechet, Kernel, LabelAgreement, SlicedWasserstein
from beeline.evaluation.scores import Report, average, compare, measure
from beeline.evaluation.trajectory import Likelihood
from beeline.fields.flow import Flow, Network
from beeline.objectives.matching import FlowMatching
from beeline.sampling.sampler import Sampler
from beeline.solvers.runge_kutta import EULER

RING = GaussianMixture.ring(4, labelled=True)
NARROW = GaussianMixture.ring(4, radius=2.0, labelled=True)
QUICK = SmallClassifier(width=8, size=6, steps=150, lr=1e-2)
METRICS = (Frechet(), Kernel(), SlicedWasserstein(), Energy(), LabelAgreement(QUICK))


@pytest.fixture(scope="module")
def report():
    return evaluate(
        RING.flow(), Sampler(steps=20), None, RING.batch(600, Rng(1)), 300, Rng(0), METRICS,
        reference=RING.batch(400, Rng(2)), reference_name="ring", extras=Extras(likelihood=Likelihood(rows=16)),
        name="exact",
    )  # fmt: skip


def test_an_exact_flow_scores_at_its_floor(report):
    for name in ("Frechet distance", "kernel distance", "sliced Wasserstein", "energy distance"):
        s = report[name]
        low, high = s.interval
        assert low < s.value < high
        assert s.value - s.baseline < 1.5 * (high - low), s
        assert (s.n_made, s.n_real, s.n_baseline) == (300, 600, 300)
    assert report["label agreement"].value > 0.97 and report["label agreement"].baseline > 0.97


def test_a_wrong_flow_is_above_its_baseline_and_its_interval_says_so(report):
    for sampler in (Sampler(steps=20), Sampler(steps=4, solver=EULER)):
        worse = evaluate(NARROW.flow(), sampler, None, RING.batch(600, Rng(1)), 300, Rng(0), METRICS,
                         reference=RING.batch(400, Rng(2)), reference_name="ring")  # fmt: skip
        for name in ("Frechet distance", "kernel distance", "sliced Wasserstein", "energy distance"):
            assert worse[name].interval[0] > worse[name].baseline
            assert worse[name].value > report[name].interval[1]


def test_the_report_says_what_every_figure_depends_on(report):
    plain = report.as_dict()
    assert Report.from_dict(json.loads(json.dumps(plain))) == report
    p = plain["provenance"]
    assert p["solver"] == {"is": "solvers.HEUN"} and p["steps"] == 20 and p["evaluations"] == 40 and p["seed"] == [0]
    assert p["reference"] == "ring" and p["n"] == 300 and p["weights"] == "as given"
    assert p["guidance"] == {"is": "guidance.Plain"}
    assert p["conditions"] == ["label"] and len(p["reference_hash"]) == 64
    assert report.cost.evaluations == report.cost.expected == 40 and report.cost.seconds > 0
    assert len(report["label agreement"].evaluator_hash) == 64
    console = Console(width=160, record=True, file=io.StringIO())
    console.print(report.table())
    text = console.export_text()
    assert "label agreement" in text and "small classifier" in text and "40 field evaluations" in text
    with pytest.raises(BeelineError, match="no score 'fid'"):
        report["fid"]
    with pytest.raises(BeelineError, match="lacks"):
        Report.from_dict({"scores": []})


def test_the_same_key_gives_the_same_figures_and_flows_compare(report):
    again = evaluate(
        RING.flow(), Sampler(steps=20), None, RING.batch(600, Rng(1)), 300, Rng(0), METRICS,
        reference=RING.batch(400, Rng(2)), extras=Extras(trajectories=None), batch_size=77,
    )  # fmt: skip
    for s in again.scores:
        assert s.value == pytest.approx(report[s.name].value, rel=1e-5)
        assert s.baseline == report[s.name].baseline
    rows = compare({"a": report, "b": again})
    assert [row["model"] for row in rows] == ["a", "b"]
    assert rows[1]["energy distance"]["baseline"] == report["energy distance"].baseline
    assert "straightness" not in rows[1]


def test_figures_measured_differently_are_not_compared(report):
    for change in ({"reference_hash": "0" * 64}, {"n_made": 5}, {"evaluator_hash": "other"}):
        other = replace(report, scores=(replace(report.scores[0], **change),))
        with pytest.raises(BeelineError, match="so they are not comparable"):
            compare({"a": report, "b": other})


def test_extras_of_an_exact_flow(report):
    # cost of the exact ring flow, and bits of its own samples: the mean of -log2 p over the rows, within its interval
    assert report["transport cost"].value > 5 and 0 < report["relative straightness"].value < 1
    bits = report["bits per dimension"]
    x = RING.batch(600, Rng(1))
    wanted = float(-RING.log_prob(x.x1, x.cond).mean()) / (2 * math.log(2))
    assert bits.interval[0] - 0.05 < wanted < bits.interval[1] + 0.05


def test_conditions_come_from_the_data_in_their_own_frequencies():
    real = Batch(torch.zeros(10, 2), cond={"label": torch.arange(10) // 5})
    drawn = conditions(RING.flow(), real, 30, Rng(0))["label"]
    assert drawn.sum() == 15 and torch.equal(drawn, conditions(RING.flow(), real, 30, Rng(0))["label"])
    assert conditions(RING.flow(), Batch(real.x1), 30, Rng(0)) is None


def test_a_metric_of_ones_own_needs_a_name_and_a_call():
    class Gap:
        name, better = "gap", "lower"

        def __call__(self, real, made, rng):
            return float((real.mean(0) - made.mean(0)).norm())

    (score,) = measure([Gap()], torch.zeros(20, 1), torch.ones(10, 1), Rng(0))
    assert score.value == 1 and score.baseline == 0 and score.evaluator == "Gap" and score.interval == (1, 1)


def test_the_baseline_is_computed_at_the_same_numbers_where_there_are_other_real_data():
    # the Frechet distance of two samples of one distribution in D dimensions is D^2 / (2 n) for each: its bias shows
    distribution = Gaussian((0.0,) * 8)
    real, made, others = (distribution.sample(n, Rng(n)) for n in (200, 201, 600))
    (few,) = measure([Frechet()], real, made, Rng(0))
    (same,) = measure([Frechet()], real, made, Rng(0), others=others)
    assert (few.n_baseline, same.n_baseline) == (100, 201) and few.value == same.value
    assert same.baseline == pytest.approx(few.baseline / 2, rel=0.25)
    (short,) = measure([Frechet()], real, made, Rng(0), others=others[:200])
    assert short.baseline == few.baseline


def covered(metric, truth: float, trials: int, n: int, shift: float) -> float:
    inside = 0
    for i in range(trials):
        x = Rng(i).fork("x").normal(torch.empty(n, 1, dtype=torch.float64))
        y = shift + Rng(i).fork("y").normal(torch.empty(n, 1, dtype=torch.float64))
        (s,) = measure([metric], x, y, Rng(i), splits=0, replicates=25)
        inside += s.interval[0] <= truth <= s.interval[1]
    return inside / trials


@pytest.mark.parametrize(
    ("metric", "truth"),
    [
        (Frechet(), 1.0),
        # 2 E|N(1,2)| - 2 E|N(0,2)|
        (Energy(), 2 * (2 / math.sqrt(math.pi) * math.exp(-0.25) + math.erf(0.5)) - 4 / math.sqrt(math.pi)),
    ],
)
def test_intervals_cover_the_truth_about_as_often_as_they_say(metric, truth):
    rate = covered(metric, truth, trials=80, n=150, shift=1.0)
    assert 0.88 <= rate <= 1.0


def test_the_interval_of_a_mean_is_the_one_of_the_textbook():
    each = Rng(0).normal(torch.empty(400, dtype=torch.float64))
    s = average("x", each, evaluator="e")
    assert s.interval[1] - s.interval[0] == pytest.approx(2 * 1.96 * float(each.std()) / 20, rel=1e-3)
    ratio = average("r", 2 * each.abs(), each.abs(), evaluator="e")
    assert ratio.value == pytest.approx(2) and ratio.interval[1] - ratio.interval[0] < 1e-9
    assert average("one", torch.ones(1), evaluator="e").interval is None


def test_too_few_real_data_for_a_floor_leave_it_out():
    distribution = Gaussian((0.0, 0.0))
    (s,) = measure([Frechet()], distribution.sample(4, Rng(0)), distribution.sample(50, Rng(1)), Rng(2))
    assert s.baseline is None and s.n_baseline == 0


@pytest.mark.parametrize(
    ("flow", "real", "n", "more", "message"),
    [
        (RING.flow(), torch.zeros(10, 2), 0, {}, "n=0 is no number of samples"),
        (RING.flow(), [[1, 2]], 5, {}, "without a modality"),
        (RING.flow(), torch.full((10, 2), math.nan), 5, {}, "10 of 10 real samples"),
        (RING.flow(), torch.zeros(10, 2), 2, {"metrics": (Frechet(),)}, "needs at least 3 samples"),
        (RING.flow(), torch.zeros(10, 2), 5, {"metrics": (LabelAgreement(QUICK),)}, "labels are needed"),
        (RING.flow(), torch.zeros(10, 2), 5, {"reference": torch.zeros(10, 3)}, "data of one shape"),
        (RING.flow(), torch.zeros(10, 2), 5, {"reference": RING.batch(20, Rng(0)), "metrics": (LabelAgreement(QUICK),)},
         "the real data have none"),
    ],
)  # fmt: skip
def test_refusals_come_before_any_drawing(flow, real, n, more, message):
    def never(x, t, cond=None):
        raise AssertionError("the field was asked")

    with pytest.raises(BeelineError, match=message):
        evaluate(Flow(never), Sampler(steps=2), None, real, n, Rng(0), **more)


def test_images_are_measured_as_the_user_receives_them():
    pixels = (Rng(0).integers(4, 300 * 9).numpy().reshape(300, 3, 3) * 85).astype(np.uint8)
    raw = Images(pixels)
    modality = Image(levels=4).fit(raw)
    still = Flow(lambda x, t, cond=None: torch.zeros_like(x), source=Uniform(-1.0, 1.0))
    loss = HeldOut(FlowMatching(), modality.encode(raw), bins=4)
    report = evaluate(
        still, Sampler(steps=1), modality, raw, 200, Rng(0), held_out=loss,
        extras=Extras(likelihood=Likelihood(rows=8, steps=2), trajectories=None),
    )  # fmt: skip
    assert [s.name for s in report.scores] == [
        "Frechet distance", "kernel distance", "sliced Wasserstein", "energy distance", "held-out loss",
        "bits per dimension",
    ]  # fmt: skip
    # four equally likely levels cost exactly two bits
    assert report["bits per dimension"].value == pytest.approx(2.0, abs=1e-5)
    # even noise, rounded to the levels, is the distribution of these data
    energy = report["energy distance"]
    assert energy.value < 3 * (energy.interval[1] - energy.value)
    # the field is zero, so that its loss is E|x1 - x0|^2 = var(x1) + 1 per coordinate
    wanted = float(modality.encode(raw).x1.square().mean()) + 1
    assert report["held-out loss"].interval[0] < wanted < report["held-out loss"].interval[1]
    assert len(report.as_dict()["details"]["held-out loss"]["by_bin"]) == 4
    assert Report.from_dict(json.loads(json.dumps(report.as_dict()))) == report


def test_metrics_are_chosen_by_what_the_data_allow():
    batch = RING.batch(100, Rng(0))
    names = lambda *args: [type(m).__name__ + type(m.features).__name__ for m in usual(*args)]  # noqa: E731
    assert names(RING.flow(), None, batch, 100) == [
        "FrechetSmallClassifier", "KernelSmallClassifier", "SlicedWassersteinIdentity", "EnergyIdentity",
        "LabelAgreementSmallClassifier",
    ]  # fmt: skip
    assert names(RING.flow(), None, batch, 64)[0] == "KernelSmallClassifier"
    assert names(RING.flow(), None, Batch(batch.x1), 2)[0] == "KernelIdentity"

    class Free(Declaring):
        traits = Traits(nulls={})  # it takes no condition

    flow = Flow(Network(Free()))
    assert names(flow, None, batch, 100)[-1] == "EnergyIdentity" and conditions(flow, batch, 5, Rng(0)) is None
