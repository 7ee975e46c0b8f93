"""Stored pairs: exact, each once, whole after kills, and refused where they are of another teacher."""

import os
import random
import signal
import time
from dataclasses import replace

import pytest
import torch
from torch import nn

from beeline.core.errors import BeelineError
from beeline.core.files import claimed, write_tensors
from beeline.core.rng import Rng
from beeline.core.types import Batch
from beeline.couplings.sources import Gaussian, Uniform
from beeline.data.distributions.mixtures import GaussianMixture
from beeline.distillation.pairs import reflow_pairs
from beeline.distillation.store.checks import check_pairs, check_store, is_noise, teacher_digest
from beeline.distillation.store.conditions import Conditions
from beeline.distillation.store.filters import LowestEnergy, Nearest
from beeline.distillation.store.making import Maker, absent, fill, pair_bytes
from beeline.distillation.store.manifest import Manifest, read_manifest
from beeline.distillation.store.reading import CONDITIONS, opened, pair_key
from beeline.fields.flow import Flow
from beeline.paths.affine import Cosine
from beeline.sampling.guidance.guide import Plain
from beeline.sampling.sampler import Sampler
from tests.distillation.test_students import Straight
from tests.test_kills import failing

LIKE = torch.empty(0, 2, dtype=torch.float64)
SAMPLER = Sampler(2)
SIDES = {"side": torch.tensor([1.0, -1.0, 1.0, 0.5], dtype=torch.float64)}


def made(folder, count=23, size=5, cond=SIDES, filters=(), dtype="float64", balanced=False, teacher=None, **maker):
    """A store of a straight teacher."""
    flow = teacher or Flow(Straight())
    conditions = None if cond is None else Conditions.of(cond, Rng(0).fork("conditions"), balanced)
    make = Maker(flow, SAMPLER, pair_key(0), LIKE, conditions, filters, **maker)
    manifest = Manifest(
        teacher_digest(flow), repr(flow.path), type(flow.source).__name__, {}, {}, 0, count, size, (2,), dtype,
        {} if conditions is None else {"digest": conditions.digest()}, tuple(str(f) for f in filters),
    )  # fmt: skip
    folder.mkdir(exist_ok=True, parents=True)
    if conditions is not None:
        write_tensors(folder / CONDITIONS, conditions.tensors())
    manifest.write(folder)
    fill(folder, manifest, make, wait=0.01)
    return opened(folder, flow.source, SAMPLER)


def test_stored_pairs_are_those_of_reflow_pairs_with_the_same_key(tmp_path):
    store = made(tmp_path / "a", batch_size=3)
    table = store.take(torch.arange(23)).cond["side"]
    wanted = reflow_pairs(Flow(Straight()), SAMPLER, {"side": table}, pair_key(0), like=LIKE)
    found = store.take(torch.arange(23))
    assert torch.equal(found.x0, wanted.x0) and torch.equal(found.x1, wanted.x1)
    assert torch.allclose(found.x1, 3 * found.x0 + 2 * table[:, None])
    order = torch.tensor([22, 0, 7, 7, 5])
    some = store.take(order)
    assert torch.equal(some.x1, wanted.x1[order]) and torch.equal(some.x0, wanted.x0[order])
    assert torch.equal(some.cond["side"], table[order]) and store.numbers(order).tolist() == order.tolist()
    size = sum((tmp_path / "a" / store.manifest.file(k)).stat().st_size for k in range(5))
    expected = pair_bytes(store.manifest, Conditions.of(SIDES, Rng(0)))
    assert 23 * (16 + 4) < size < expected + 5 * 512


def test_pairs_depend_on_their_numbers_alone(tmp_path):
    short, long = made(tmp_path / "a", count=12, size=5), made(tmp_path / "b", count=23, size=4)
    a, b = (store.take(torch.arange(12)) for store in (short, long))
    assert torch.equal(a.x0, b.x0) and torch.equal(a.x1, b.x1) and torch.equal(a.cond["side"], b.cond["side"])


def test_microbatches_hold_every_pair_once_an_epoch_and_depend_on_their_number_alone(tmp_path):
    store = made(tmp_path / "a").ordered(Rng(3))
    seen = torch.cat([store.rows(n, 7) for n in range(23)])
    assert torch.equal(seen.reshape(7, 23).sort(1).values, torch.arange(23).expand(7, 23))
    batch = store.microbatch(5, 7)
    again = opened(tmp_path / "a", Gaussian(), SAMPLER).ordered(Rng(3)).microbatch(5, 7)
    assert torch.equal(batch.x1, again.x1) and torch.equal(batch.x0, again.x0)
    assert torch.equal(batch.x1, store.take(seen[35:42]).x1)
    assert store.identity == store.ordered(Rng(9)).identity


def test_data_are_stored_in_fewer_bits_and_sources_are_regenerated(tmp_path):
    whole = made(tmp_path / "a", cond=None)
    half = made(tmp_path / "b", cond=None, dtype="bfloat16")
    a, b = whole.head(99), half.head(99)
    assert a.cond is None and b.x1.dtype == torch.float32 and len(b.x1) == 23
    assert torch.equal(b.x1, a.x1.bfloat16().float()) and torch.allclose(b.x0.double(), a.x0, atol=1e-6)
    box = made(tmp_path / "c", cond=None, teacher=Flow(Straight(), source=Uniform()))
    found = box.take(torch.tensor([3, 1]))
    assert found.x0.abs().max() <= 1 and torch.allclose(found.x1, 3 * found.x0 + 2)


def test_conditions_are_stored_once_and_taken_equally_often():
    labels = torch.tensor([3, 5, 3, 3])
    table = Conditions.of({"label": labels, "text": {"x": labels[:, None] * torch.ones(4, 2)}}, Rng(0))
    assert table.table["label"].tolist() == [3, 5] and table.order.tolist() == [0, 1, 0, 0] and len(table) == 2
    numbers = table.numbers(range(40))
    assert numbers.reshape(10, 4).sum(1).tolist() == [1] * 10  # every datum once in four
    assert torch.equal(table.numbers(range(13, 20)), numbers[13:20])
    even = Conditions.of({"label": labels}, Rng(0), balanced=True).numbers(range(11))
    assert sorted(even.bincount().tolist()) == [5, 6]
    assert torch.equal(table.at(numbers)["text"]["x"][:, 0].long(), table.at(numbers)["label"])
    assert list(table.tensors()) == ["cond.label", "cond.text.x"]
    with pytest.raises(BeelineError, match=r"have \[1, 2\] rows"):
        Conditions.of({"a": torch.ones(1), "b": torch.ones(2)}, Rng(0))


def test_filters_keep_an_exact_share_and_the_numbers_of_the_pairs(tmp_path):
    all_of, near = made(tmp_path / "a"), made(tmp_path / "b", filters=(Nearest(0.5),))
    whole = all_of.take(torch.arange(23))
    length = (whole.x1 - whole.x0).square().sum(1)
    wanted = torch.cat([5 * k + length[5 * k : 5 * k + 5].argsort()[:2].sort().values for k in range(4)])
    wanted = torch.cat([wanted, 20 + length[20:].argsort()[:1]])
    assert len(near) == 9 and near.numbers(torch.arange(9)).tolist() == wanted.tolist()
    found = near.take(torch.arange(9))
    assert torch.equal(found.x1, whole.x1[wanted]) and torch.equal(found.x0, whole.x0[wanted])
    assert torch.equal(found.cond["side"], whole.cond["side"][wanted])
    low = made(tmp_path / "c", filters=(Nearest(1.0), LowestEnergy(lambda x, t, cond: x[:, 0] * t, 0.4)))
    assert len(low) == 4 * 2 + 1
    with pytest.raises(BeelineError, match="removed all of them"):
        made(tmp_path / "d", filters=(Nearest(0.0),))
    with pytest.raises(BeelineError, match="not finite"):
        Nearest()(Batch(torch.full((2, 1), torch.nan), torch.zeros(2, 1)))


def contents(folder):
    return {p.name: p.read_bytes() for p in sorted(folder.iterdir()) if not p.name.startswith(".")}


def test_a_claim_is_held_by_one_process_and_ends_with_it(tmp_path):
    path = tmp_path / "x.claim"
    with claimed(path) as mine:
        assert mine
        with claimed(path) as other:
            assert not other
    with claimed(path) as mine:
        assert mine
    child = os.fork()
    if child == 0:
        with claimed(path):
            os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(child, 0)
    assert path.exists()
    with claimed(path) as mine:
        assert mine
    assert not path.exists()


class Slow(Straight):
    def forward(self, x, t, cond=None):
        time.sleep(0.002)
        return super().forward(x, t, cond)


def killed_at_random(folder, rng, count, size, seconds):
    """Two processes fill a store, and one of them is killed after a random time; then the other one is."""
    children = []
    for _ in range(2):
        child = os.fork()
        if child == 0:
            try:
                made(folder, count, size, teacher=Flow(Slow()))
            finally:
                os._exit(0)
        children.append(child)
    time.sleep(rng.uniform(0, seconds))
    for child in children:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


def check_kills(tmp_path, kills, count, size, seconds):
    made(tmp_path / "whole", count, size)
    rng, folder, running = random.Random(0), tmp_path / "killed", 0
    for _ in range(kills):
        killed_at_random(folder, rng, count, size, seconds)
        running += not (folder / "pairs.json").is_file() or bool(absent(folder, read_manifest(folder)))
    made(folder, count, size)
    assert contents(folder) == contents(tmp_path / "whole") and running >= kills // 2
    assert not list(folder.glob(".shard*"))


def test_kills_lose_and_double_no_pair(tmp_path):
    check_kills(tmp_path, 4, count=120, size=5, seconds=0.06)


@pytest.mark.slow
def test_twenty_kills_lose_and_double_no_pair(tmp_path):
    check_kills(tmp_path, 20, count=1500, size=5, seconds=0.1)


def test_a_kill_at_any_file_operation_is_repaired(tmp_path):
    made(tmp_path / "first", 8, 3)
    with failing(0, lambda: None) as count:
        made(tmp_path / "whole", 8, 3)
    assert count[0] > 20
    for at in range(1, count[0] + 1, 3):
        folder = tmp_path / str(at)
        child = os.fork()
        if child == 0:
            try:
                with failing(at, lambda: os._exit(9)):
                    made(folder, 8, 3)
            finally:
                os._exit(0)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9
        made(folder, 8, 3)
        assert contents(folder) == contents(tmp_path / "whole"), at


def test_stores_that_are_not_whole_are_refused(tmp_path):
    store = made(tmp_path / "a")
    with pytest.raises(BeelineError, match="no pairs.json"):
        opened(tmp_path, Gaussian())
    shard = tmp_path / "a" / store.manifest.file(1)
    content = shard.read_bytes()
    shard.write_bytes(content[:-7])
    with pytest.raises(BeelineError, match="damaged"):
        opened(tmp_path / "a", Gaussian())
    shard.unlink()
    with pytest.raises(BeelineError, match="4 of 5 shards"):
        opened(tmp_path / "a", Gaussian())
    write_tensors(shard, {"x1": torch.zeros(5, 3)})
    with pytest.raises(BeelineError, match=r"shape \[3\] and not \[2\]"):
        opened(tmp_path / "a", Gaussian())
    (tmp_path / "a" / "pairs.json").write_text('{"format": 1}')
    with pytest.raises(BeelineError, match="lacks 'teacher'"):
        opened(tmp_path / "a", Gaussian())
    (tmp_path / "a" / "pairs.json").write_text('{"format": 2}')
    with pytest.raises(BeelineError, match="format 2"):
        opened(tmp_path / "a", Gaussian())


def test_pairs_of_another_teacher_are_refused(tmp_path):
    teacher = Flow(Straight())
    store = made(tmp_path / "a")
    check_store(store, teacher)
    check_store(made(tmp_path / "b", filters=(Nearest(0.5),)), teacher)
    other = Flow(Straight())
    with torch.no_grad():
        other.field.scale += 1
    with pytest.raises(BeelineError, match="with the weights"):
        check_store(store, other)
    with pytest.raises(BeelineError, match="on the path Linear"):
        check_store(store, replace(teacher, path=Cosine()))
    with pytest.raises(BeelineError, match="from the source Gaussian"):
        check_store(store, replace(teacher, source=Uniform()))
    with pytest.raises(BeelineError, match="of another sampler or guidance"):
        check_store(replace(store, sampler=Sampler(1, guidance=Doubled())), teacher)
    with pytest.raises(BeelineError, match="not a network"):
        teacher_digest(Flow(lambda x, t: x))


class Doubled(Plain):
    def __call__(self, field, cond):
        return lambda x, t: 2 * field(x, t, cond)


def test_noise_and_data_that_are_exchanged_or_shuffled_are_refused():
    teacher = Flow(Straight())
    pairs = reflow_pairs(teacher, SAMPLER, 64, Rng(0), like=LIKE)
    check_pairs(teacher, SAMPLER, pairs)
    with pytest.raises(BeelineError, match="seem swapped"):
        check_pairs(teacher, SAMPLER, Batch(pairs.x0, pairs.x1))
    with pytest.raises(BeelineError, match="not of the same pairs"):
        check_pairs(teacher, SAMPLER, Batch(pairs.x1, pairs.x0.roll(1, 0)))
    with pytest.raises(BeelineError, match="no x0"):
        check_pairs(teacher, SAMPLER, Batch(pairs.x1))
    box = Flow(Straight(), source=Uniform())
    some = reflow_pairs(box, SAMPLER, 64, Rng(0), like=LIKE)
    check_pairs(box, SAMPLER, some)
    with pytest.raises(BeelineError, match="not of the same pairs"):
        check_pairs(box, SAMPLER, Batch(some.x0, some.x1))


@pytest.mark.parametrize("shape", [(1,), (2,), (784,)])
def test_noise_is_recognised(shape):
    for seed in range(20):
        assert is_noise(Rng(seed).normal(torch.empty(100, *shape)))
        assert not is_noise(Rng(seed).normal(torch.empty(100, *shape)) + 1)
        assert not is_noise(Rng(seed).normal(torch.empty(100, *shape)) * 2)
    ring = GaussianMixture.ring().batch(500, Rng(0)).x1
    assert not is_noise((ring - ring.mean(0)) / ring.std(0))  # with the mean and variance of noise
    wide = Rng(0).normal(torch.empty(500, 64)) * Rng(1).normal(torch.empty(500, 1))
    assert not is_noise(wide)


class Broken(nn.Module):
    def __init__(self):
        super().__init__()
        self.w = nn.Parameter(torch.zeros(1))

    def forward(self, x, t, cond=None):
        return x / self.w


def test_data_that_are_not_finite_are_refused(tmp_path):
    with pytest.raises(BeelineError, match="non-finite"):
        made(tmp_path / "a", teacher=Flow(Broken()), cond=None)
    assert not list((tmp_path / "a").glob("shard*"))
