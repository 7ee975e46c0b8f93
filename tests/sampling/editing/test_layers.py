"""Objects before backgrounds, on scenes whose distribution is known."""

import pytest
import torch

import beeline as bl
from beeline.core.errors import BeelineError
from beeline.networks.attending.mode import ImageAttention
from beeline.networks.dit import DiT
from beeline.sampling.editing.layers.layered import Layered, Pan
from beeline.sampling.editing.layers.masked_keys import MaskedKeys, without_keys
from beeline.sampling.editing.layers.operations import (
    Clone,
    Flip,
    Move,
    Remove,
    Resize,
    copies,
    gathered,
    rendered,
    scattered,
)
from beeline.sampling.editing.layers.scene import LayeredScene
from beeline.sampling.editing.outcome import edited
from beeline.sampling.editing.regions import GivenRegion
from beeline.sampling.guidance.references.conditions import OtherCondition
from beeline.solvers.runge_kutta import RK4
from benchmarks.claims import scenes

PICTURE = torch.zeros(1, 1, 5, 6)
PICTURE[0, 0, 1:3, 1:3] = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
MASK = (PICTURE > 0).float()


def shown(*operations):
    places = copies(operations, MASK)
    return rendered(0 * PICTURE, PICTURE, MASK, places)[0][0, 0]


def at(row, column, values):
    made = torch.zeros(5, 6)
    values = torch.tensor(values)
    made[row : row + values.shape[0], column : column + values.shape[1]] = values
    return made


OBJECT = [[1.0, 2.0], [3.0, 4.0]]


@pytest.mark.parametrize(
    "operations, expected",
    [
        ((), at(1, 1, OBJECT)),
        ((Move(2, 3),), at(3, 4, OBJECT)),
        ((Move(-1, 0), Move(1, -1)), at(1, 0, OBJECT)[:, :]),
        ((Move(0, 4),), at(1, 5, [[1.0], [3.0]])),
        ((Move(0, 4), Move(0, -4)), at(1, 1, [[1.0, 0.0], [3.0, 0.0]])),  # what has left does not come back
        ((Flip(),), at(1, 1, [[2.0, 1.0], [4.0, 3.0]])),
        ((Flip(upside_down=True), Move(1, 0)), at(2, 1, [[3.0, 4.0], [1.0, 2.0]])),
        ((Clone(0, 2),), at(1, 1, [[1.0, 2.0, 1.0, 2.0], [3.0, 4.0, 3.0, 4.0]])),
        ((Clone(0, 1),), at(1, 1, [[1.0, 1.0, 2.0], [3.0, 3.0, 4.0]])),  # the copy is in front
        ((Resize(2.0),), at(0, 0, [[1.0, 1.0, 2.0, 2.0]] * 2 + [[3.0, 3.0, 4.0, 4.0]] * 2)),
        ((Clone(2, 0), Remove()), torch.zeros(5, 6)),
    ],
)
def test_operations_on_an_object(operations, expected):
    assert torch.equal(shown(*operations), expected)


def test_rows_have_their_own_objects_and_pixels_go_back_to_their_place():
    mask = torch.stack([scenes.mask(r, c) for r, c in ((0, 1), (3, 5), (6, 6))])[:, None]
    x = bl.Rng(0).normal(torch.empty(3, 2, 8, 8))
    (place,) = copies((Flip(), Move(-1, 1)), mask)
    alone = [gathered(x[i : i + 1], copies((Flip(), Move(-1, 1)), mask[i : i + 1])[0]) for i in range(3)]
    assert torch.equal(gathered(x, place), torch.cat(alone))
    back = scattered(gathered(x, place), place)
    seen = scattered(torch.ones_like(mask), place)
    assert torch.equal(back * (seen > 0), x * (seen > 0)) and 0 < seen.mean() < 1


N, BACKGROUND = 8, OtherCondition(0.0)
OBJECT_AT = GivenRegion(scenes.mask(1, 2))


def pictures(seed=0):
    x = torch.stack([scenes.scene(b % 4, 1, 2) for b in range(N)])
    return x + scenes.STD * bl.Rng(seed).normal(x)


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize(
    "edit, new, wanted",
    [
        (Layered(OBJECT_AT, (Move(3, 2),), background=BACKGROUND), 1.0, (4, 4)),
        (Layered(OBJECT_AT, (Remove(),)), 0.0, None),
        (LayeredScene(OBJECT_AT, (Remove(),)), 0.0, None),
    ],
    ids=repr,
)
def test_edits_of_scenes_lead_to_the_scene_that_was_asked_for(edit, new, wanted, seed):
    x = pictures(seed)
    made = edit(scenes.flow(), x, torch.ones(N), torch.full((N,), new), bl.Sampler(20), bl.Rng(seed))
    index = [b % 4 if wanted is None else scenes.index(b % 4, *wanted) for b in range(N)]
    assert scenes.nearest(made).tolist() == index
    mean = torch.cat([scenes.EMPTY, scenes.FULL])[index]
    assert 0.1 < float((made - mean).square().mean().sqrt()) < 0.2  # noise of the deviation 0.15 around it
    if wanted is not None and isinstance(edit, Layered):
        outside = (scenes.mask(4, 4) + torch.nn.functional.max_pool2d(scenes.mask(1, 2)[None], 3, 1, 1)[0]) == 0
        assert torch.equal(made[..., outside], x[..., outside])


@pytest.mark.parametrize("seed", [0, 1])
def test_a_panned_picture_is_continued(seed):
    x = torch.stack([scenes.scene(b % 4) for b in range(N)])
    x = x + scenes.STD * bl.Rng(seed).normal(x)
    made = Pan(4, 0)(scenes.flow(), x, torch.zeros(N), torch.zeros(N), bl.Sampler(20), bl.Rng(seed))
    assert torch.equal(made[:, :, 4:], x[:, :, :4])
    assert scenes.nearest(made).tolist() == [b % 4 for b in range(N)]  # the stripes have the period 4


def test_an_operation_that_changes_nothing_gives_the_data_back_by_the_round_trip():
    x, same = pictures(), torch.ones(N)
    made = Layered(OBJECT_AT, (Move(),), dilation=0)(
        scenes.flow(), x, same, same, bl.Sampler(64, solver=RK4), bl.Rng(0)
    )
    assert (made - x).abs().max() < 0.05
    many = LayeredScene(OBJECT_AT, (Move(),), anchor=1e6, until=0.99)
    assert (many(scenes.flow(), x, same, same, bl.Sampler(20), bl.Rng(0)) - x).abs().max() < 0.05


def test_rows_do_not_depend_on_each_other():
    x, flow, sampler = pictures(), scenes.flow(), bl.Sampler(4)
    for edit in (Layered(OBJECT_AT, (Resize(1.5),)), LayeredScene(OBJECT_AT, (Clone(2, 2),)), Pan(0, 2)):
        whole, part = (edit(flow, x[:k], torch.ones(k), torch.ones(k), sampler, bl.Rng(0)) for k in (N, 2))
        assert (whole[:2] - part).abs().max() < 1e-4


def transformer(dtype=torch.float32):
    with bl.Rng(0).ambient():
        net = DiT((1, 8, 8), patch=2, width=16, depth=2, heads=2, conditions={"label": {"classes": 2}})
        for p in net.parameters():
            p.data = bl.Rng(p.numel()).normal(p.data) * 0.2
    return bl.Flow(bl.Network(net.to(dtype)))


def labels(k):
    return {"label": torch.full((N,), k)}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_masked_keys_fill_a_region_with_a_transformer(dtype):
    x, flow = pictures(), transformer(dtype)
    made = MaskedKeys(OBJECT_AT)(flow, x, labels(1), labels(0), bl.Sampler(3), bl.Rng(0))
    inside = scenes.mask(1, 2) > 0
    assert made.dtype == torch.float32 and torch.equal(made[..., ~inside], x[..., ~inside])
    assert (made - x)[..., inside].abs().amax((1, 2)).min() > 1e-3
    run = (flow, x, labels(1), labels(0), bl.Sampler(3), bl.Rng(0))
    assert torch.equal(made, edited(MaskedKeys(), *run, region=OBJECT_AT).x)
    guided = MaskedKeys(OBJECT_AT)(*run[:4], bl.Sampler(3, guidance=bl.guidance.CFG(2.0, null=2)), run[5])
    assert guided.isfinite().all()


def test_no_token_attends_to_masked_keys():
    from beeline.core.declared import TokenGrid

    q, k, v = (bl.Rng(i).normal(torch.empty(2, 1, 5, 3)) for i in range(3))
    gone = torch.tensor([[True, False, False, True], [True] * 4])
    made = without_keys(ImageAttention(q, k, v, None, TokenGrid(2, 2), {}), gone)
    p = (q @ k.mT / 3**0.5).masked_fill(torch.tensor([True, False, False, True, False]), -torch.inf).softmax(-1)
    assert torch.allclose(made[0], (p @ v)[0], atol=1e-6)
    assert torch.allclose(made[1], ((q @ k.mT / 3**0.5).softmax(-1) @ v)[1], atol=1e-6)  # all of it is not masked


@pytest.mark.parametrize(
    "edit, x, message",
    [
        (Layered(GivenRegion((1.0, 1.0)), (Move(),)), torch.zeros(2, 2), "use it on pictures"),
        (MaskedKeys(OBJECT_AT), torch.zeros(2, 1, 8, 8), "does not declare the tokens"),
        (Layered(GivenRegion(torch.zeros(8, 8)), (Move(),)), torch.zeros(2, 1, 8, 8), "empty"),
    ],
)
def test_refusals(edit, x, message):
    with pytest.raises(BeelineError, match=message):
        edit(scenes.flow(), x, torch.zeros(len(x)), torch.ones(len(x)), bl.Sampler(2), bl.Rng(0))
