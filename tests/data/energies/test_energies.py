"""Energies in the units of the user: motifs, columns, pixels of latents."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from beeline.core.errors import BeelineError
from beeline.core.rng import Rng
from beeline.data.distributions.mixtures import GaussianMixture
from beeline.data.energies.latents import Decoded
from beeline.data.energies.symbols import Motif
from beeline.data.energies.tables import ColumnRange, ColumnSum, Reader
from beeline.data.images import Image, Images
from beeline.data.latents.autoencoders import PatchChannels
from beeline.data.latents.modality import LatentImage
from beeline.data.sequences import Sequences
from beeline.data.tables.table import Table
from beeline.fields.flow import Flow
from beeline.runs.bundle import Bundle
from beeline.sampling.sampler import Sampler
from beeline.sampling.steering.descending import EnergyGuidance
from beeline.sampling.steering.energies.combined import Scheduled, Sum
from beeline.sampling.steering.energies.pictures import MeanColour
from beeline.sampling.steering.energies.squared import Near
from beeline.sampling.steering.gradients.training_free import TFG
from beeline.sampling.steering.modalities import for_modality

pd = pytest.importorskip("pandas")
LETTERS = Sequences().fit(["ABCAB", "BCABA"])


def table(n=2000):
    """A fitted table of a rare and a frequent value, many numbers and a category."""
    rng = np.random.default_rng(0)
    return Table().fit(pd.DataFrame({
        "kind": rng.choice(["x", "y"], n), "age": rng.integers(20, 60, n), "income": np.exp(rng.normal(10, 1, n)),
    }))  # fmt: skip


# --------------------------------------------------------------------------------------------------------------- motifs


def test_a_motif_counts_its_occurrences():
    energy = Motif("AB").for_modality(LETTERS)
    x = LETTERS.encode(["ABCAB", "CCABC", "BBBBB"]).x1
    made = torch.exp(-energy(x, torch.ones(3)))
    assert torch.allclose(made, torch.tensor([2.0, 1.0, 0.0]), atol=1e-3)


def test_a_motif_under_probabilities_is_the_expected_number():
    p = Rng(0).normal(torch.empty(1, 4, 3, dtype=torch.float64)).softmax(-1)
    expected = 0.0
    for word in itertools.product(range(3), repeat=4):
        chance = float(torch.stack([p[0, i, k] for i, k in enumerate(word)]).prod())
        expected += chance * sum(word[i : i + 2] == (2, 0) for i in range(3))
    assert float(torch.exp(-Motif((2, 0))(p, torch.ones(1)))) == pytest.approx(expected)


# -------------------------------------------------------------------------------------------------------------- columns


@pytest.mark.parametrize("column", ["age", "income"])
def test_the_smooth_value_of_a_column_is_near_that_of_decoding(column):
    modality = table()
    x = Rng(1).normal(torch.empty(500, *modality.shape, dtype=torch.float64)).clamp(-2.5, 2.5)
    smooth, decoded = Reader.of(modality, column)(x), torch.tensor(modality.decode(x)[column].to_numpy(float))
    tolerance = 1.0 if column == "age" else 0.02 * decoded
    assert bool(((smooth - decoded).abs() <= tolerance).all())


def test_a_column_of_standardised_numbers_is_linear():
    rows = pd.DataFrame({"a": np.linspace(0, 10, 50), "b": np.linspace(3, 1, 50) ** 2})
    modality = Table({"a": {"standard": True}}).fit(rows)
    x = Rng(1).normal(torch.empty(9, 2, dtype=torch.float64))
    assert torch.allclose(Reader.of(modality, "a")(x), torch.tensor(modality.decode(x)["a"].to_numpy()), atol=1e-6)


def sampled(*energies, steps=40, n=300):
    """Rows of independent columns, led by energies."""
    modality = table()
    normal = GaussianMixture([[0.0] * modality.shape[0]], 1.0)
    field, null = normal.field(), {"known": 0.0, "mask": 0.0}
    bundle = Bundle(Flow(lambda x, t, cond=None: field(x, t), null=null), modality=modality)
    guided = tuple(TFG(energy, rho=0.0, mu=3.0, clip=3.0) for energy in energies)
    return bundle.sample(n, sampler=Sampler(steps, controllers=guided))


def test_rows_are_led_into_a_range_and_to_a_sum_in_units_of_the_columns():
    free = sampled()
    led = sampled(ColumnRange("age", 30.0, 40.0, deviation=2.0), Scheduled(ColumnSum({"income": 1.0, "age": 100.0},
                  30_000.0, deviation=3000.0)))  # fmt: skip
    assert free["age"].between(29, 41).mean() < 0.4 and led["age"].between(29, 41).mean() > 0.9
    gaps = [(rows["income"] + 100 * rows["age"] - 30_000).abs().median() for rows in (free, led)]
    assert gaps[1] < 0.3 * gaps[0]


@pytest.mark.parametrize("values", [{"age": 1.0, "income": -2.0}, ("age", "income")])
def test_the_energy_of_a_sum_is_its_formula(values):
    modality = table()
    x = Rng(1).normal(torch.empty(20, *modality.shape, dtype=torch.float64))
    age, income = (Reader.of(modality, column)(x) for column in ("age", "income"))
    second = -2.0 if isinstance(values, dict) else 1.0
    made = ColumnSum(values, 100.0, deviation=50.0).for_modality(modality)(x, torch.ones(20))
    assert torch.allclose(made, ((age + second * income - 100) / 50) ** 2 / 2)


# -------------------------------------------------------------------------------------------------------------- latents


def test_energies_of_latents_are_those_of_their_images():
    pixels = (Rng(0).fill(torch.empty(6, 8, 8, 3)) * 255).to(torch.uint8)
    modality = LatentImage(PatchChannels(2), Image()).fit(Images(pixels.numpy()))
    colour = MeanColour((1.0, 0.0, 0.0), deviation=0.1)
    latents = modality.encode(Images(pixels.numpy())).x1
    made = Decoded(colour).for_modality(modality)(latents, torch.ones(6))
    assert torch.allclose(made, colour(modality.image.encode(Images(pixels.numpy())).x1, torch.ones(6)), atol=1e-3)
    still = Bundle(Flow(lambda x, t, cond=None: 0 * x), modality=modality)
    red, plain = (
        still.sample(4, sampler=Sampler(20, controllers=more)).pixels.mean((0, 1, 2))
        for more in ((TFG(Decoded(colour), rho=0.0, mu=20.0),), ())
    )
    assert red[0] > 200 > plain[0] and red[1] < 60 < plain[1]
    assert Decoded(colour).for_modality(Image((3, 8, 8))) is colour


# ----------------------------------------------------------------------------------------------------------- modalities


def test_energies_are_found_inside_samplers_and_other_parts_stay():
    sampler = Sampler(controllers=(EnergyGuidance(Sum((Near((0.0,)), Scheduled(Motif("CA"))))),))
    inside = for_modality(sampler, LETTERS).controllers[0].energy.energies
    assert inside[1].energy.motif == (2, 0) and inside[0] is sampler.controllers[0].energy.energies[0]
    plain = Sampler(controllers=(EnergyGuidance(Near((0.0,))),))
    assert for_modality(plain, LETTERS) is plain and for_modality(sampler, None) is sampler


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Motif("AX").for_modality(LETTERS), "'X' is not in the alphabet"),
        (lambda: Motif("AB").for_modality(Image()), "no alphabet"),
        (lambda: Motif(""), "an empty motif"),
        (lambda: Motif("AB")(torch.zeros(1, 4, 3), torch.ones(1)), "without a modality"),
        (lambda: Motif((0, 3))(torch.zeros(1, 4, 3), torch.ones(1)), "numbers up to 3"),
        (lambda: ColumnRange("kind", 1.0).for_modality(table()), "no column with a number of its own"),
        (lambda: ColumnRange("agee", 1.0).for_modality(table()), "did you mean 'age'"),
        (lambda: ColumnRange("age", 1.0).for_modality(LETTERS), "the columns of a table"),
        (lambda: ColumnRange("age", 3.0, 1.0), "low <= high"),
        (lambda: ColumnRange("age"), "low <= high"),
        (lambda: ColumnSum((), 1.0), "at least one column"),
        (lambda: ColumnSum(("age",), 1.0)(torch.zeros(1, 4), torch.ones(1)), "without a modality"),
        (lambda: Decoded(MeanColour((1.0,)))(torch.zeros(1, 4), torch.ones(1)), "without a modality"),
    ],
)
def test_wrong_settings_are_refused(make, message):
    with pytest.raises(BeelineError, match=message):
        make()


def test_columns_are_read_in_16_bits() -> None:
    knots = torch.linspace(-3, 3, 1001, dtype=torch.float64)
    reader = Reader(0, tuple(knots.tolist()), tuple((10 * knots).tolist()))
    x = torch.linspace(-2, 2, 257).bfloat16()[:, None].requires_grad_()
    (slope,) = torch.autograd.grad(reader(x).sum(), x)
    torch.testing.assert_close(reader(x).float(), 10 * x[:, 0].float(), rtol=1e-4, atol=1e-3)
    torch.testing.assert_close(slope, torch.full_like(x, 10))
