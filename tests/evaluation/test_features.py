"""Feature spaces: what is learned, what is kept, and that it is the same again."""

import math

import pytest
import torch
from torch import nn

from beeline.core.errors import BeelineError
from beeline.core.rng import Rng
from beeline.data.distributions.mixtures import GaussianMixture
from beeline.evaluation.features import Module, SmallClassifier, digest, labels_of

RING = GaussianMixture.ring(4, labelled=True)
QUICK = SmallClassifier(width=8, size=6, steps=150, lr=1e-2)


@pytest.fixture(scope="module")
def data():
    return RING.batch(400, Rng(0))


def test_a_vector_classifier_learns_well_separated_modes(data):
    trained = QUICK.fit(data.x1, data.cond)
    fresh = RING.batch(400, Rng(1))
    assert (trained.classify(fresh.x1) == fresh.cond["label"]).float().mean() > 0.99
    seen = trained(data.x1)
    assert seen.shape == (400, 6) and seen.dtype == torch.float64
    assert torch.allclose(seen.mean(0), torch.zeros(6, dtype=torch.float64), atol=1e-4)
    moving = seen.std(0) > 1e-3
    assert moving.sum() >= 2 and torch.allclose(seen.std(0)[moving], torch.ones(int(moving.sum())).double(), atol=1e-3)


def test_an_image_classifier_learns_where_the_bright_half_is():
    label = torch.arange(200) % 2
    x = 0.3 * Rng(0).normal(torch.empty(200, 3, 8, 6))
    x[label == 1, :, 4:] += 1
    trained = SmallClassifier(width=4, size=5, steps=60).fit(x, {"half": label})
    assert (trained.classify(x) == label).float().mean() > 0.99
    assert trained(x).shape == (200, 5)


def test_the_same_reference_gives_the_same_classifier_and_the_global_state_is_left_alone(data):
    before = torch.random.get_rng_state()
    a, b = (QUICK.fit(data.x1, data.cond) for _ in range(2))
    assert a.hash == b.hash and torch.equal(a(data.x1), b(data.x1))
    assert torch.equal(torch.random.get_rng_state(), before)
    other = SmallClassifier(width=8, size=6, steps=150, lr=1e-2, seed=1).fit(data.x1, data.cond)
    assert other.hash != a.hash and other.reference == a.reference


def test_the_cache_is_used_when_reference_and_settings_agree(data, tmp_path):
    a = QUICK.fit(data.x1, data.cond, cache=tmp_path)
    (file,) = tmp_path.iterdir()
    stamp = file.stat().st_mtime_ns
    b = QUICK.fit(data.x1, data.cond, cache=tmp_path)
    assert file.stat().st_mtime_ns == stamp and a.hash == b.hash and torch.equal(a(data.x1), b(data.x1))
    QUICK.fit(data.x1 + 1, data.cond, cache=tmp_path)
    SmallClassifier(width=8, size=6, steps=20).fit(data.x1, data.cond, cache=tmp_path)
    assert len(list(tmp_path.iterdir())) == 3
    file.write_bytes(file.read_bytes()[:-10])
    with pytest.raises(BeelineError, match=f"{file.name} does not match"):
        QUICK.fit(data.x1, data.cond, cache=tmp_path)


def test_the_time_of_a_classifier_is_estimated_unless_it_is_stored(data, tmp_path):
    """A clock that advances by one second with every training step, of which an estimate takes four."""
    seconds = iter([0.0, 4.0])
    assert QUICK.seconds(data.x1, data.cond, cache=tmp_path, clock=lambda: next(seconds)) == QUICK.steps
    assert list(tmp_path.iterdir()) == [], "a trial is not stored"
    before = QUICK.fit(data.x1, data.cond)
    assert QUICK.fit(data.x1, data.cond, cache=tmp_path).hash == before.hash, "a trial does not change the classifier"
    assert QUICK.seconds(data.x1, data.cond, cache=tmp_path, clock=lambda: next(seconds)) == 0


def test_a_module_keeps_its_mode_and_is_known_by_its_weights():
    with Rng(0).ambient():
        net = nn.Sequential(nn.Linear(3, 2), nn.Dropout(0.5))
    space = Module(net.train(), "mine", batch=3)
    x = torch.ones(8, 3)
    assert torch.equal(space(x), space(x)) and net.training  # no dropout while it looks
    first = space.hash
    with torch.no_grad():
        net[0].weight[0, 0] += 1e-3
    assert space.hash != first


def test_digest_sees_values_shapes_dtypes_and_names():
    x = torch.arange(6.0)
    seen = {digest({"x": x}), digest({"y": x}), digest({"x": x.reshape(2, 3)}), digest({"x": x.double()}),
            digest({"x": x + 1}), digest({"x": x}, "text")}  # fmt: skip
    assert len(seen) == 6 and digest({"x": x.clone()}) in seen


@pytest.mark.parametrize(
    ("cond", "name", "message"),
    [
        (None, "", "the conditions are none"),
        ({"size": torch.ones(2)}, "", r"the conditions are \['size'\]"),
        ({"a": torch.zeros(2).long(), "b": torch.zeros(2).long()}, "", "set label= to one of them"),
        ({"a": torch.zeros(2).long()}, "b", "label='b', but"),
        ({"a": torch.zeros(3).long()}, "", "3 labels for 2 samples"),
        ({"a": torch.tensor([0, -1])}, "", "a label is -1"),
    ],
)
def test_labels_are_refused_by_name(cond, name, message):
    with pytest.raises(BeelineError, match=message):
        labels_of(cond, name, 2)


@pytest.mark.parametrize("use", [lambda s: s.hash, lambda s: s(torch.ones(1, 2)), lambda s: s.classify(torch.ones(1))])
def test_an_unfit_classifier_says_so(use):
    with pytest.raises(BeelineError, match="is not fitted"):
        use(SmallClassifier())


def test_a_constant_input_does_not_break_the_scale():
    trained = SmallClassifier(width=2, size=3, steps=5).fit(torch.ones(20, 2), torch.arange(20) % 2)
    assert math.isfinite(float(trained(torch.ones(2, 2)).sum()))
