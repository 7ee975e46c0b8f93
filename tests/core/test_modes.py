"""Device, precision and mode: what is moved, what is copied, and what is put back."""

import functools
from dataclasses import dataclass, field

import pytest
import torch
from torch import nn

import beeline as bl
from beeline.cli.main import run
from beeline.core.errors import BeelineError
from beeline.core.modes import device_of, eval_mode, moved, place_for, resolve_device, tensors_of
from beeline.evaluation.heldout import HeldOut
from beeline.objectives.matching import FlowMatching
from beeline.sampling.guidance.guide import Extrapolate, Guide, Weak
from beeline.training.config import Training
from beeline.training.fit import fit
from beeline.training.optim.ema import EMA


@dataclass(frozen=True)
class Holder:
    net: nn.Module
    data: torch.Tensor
    parts: tuple = ()
    by_name: dict = field(default_factory=dict)

    @functools.cached_property
    def total(self) -> torch.Tensor:
        return self.data.sum()


class Dropping(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.line = nn.Linear(2, 2)
        self.drop = nn.Dropout(0.5)

    def forward(self, x, t, cond=None):
        return self.drop(self.line(x))


def test_auto_is_the_gpu_where_there_is_one_and_unknown_devices_are_refused() -> None:
    assert resolve_device() == resolve_device("auto") == resolve_device(None)
    assert resolve_device().type == ("cuda" if torch.cuda.is_available() else "cpu")
    with pytest.raises(BeelineError, match="names no device of torch; give 'auto'"):
        resolve_device("gpu")
    missing = f"cuda:{torch.cuda.device_count()}"
    with pytest.raises(BeelineError, match=rf"device='{missing}'.*cannot use it on this machine, which has cpu.*give"):
        resolve_device(missing)


def test_auto_stays_on_the_accelerator_on_which_the_work_is_already() -> None:
    assert place_for("auto", nn.Linear(1, 1)) == resolve_device()
    assert place_for("cpu", nn.Linear(1, 1, device="meta")).type == "cpu"


def test_everything_is_moved_and_the_owner_keeps_its_own() -> None:
    net, data = nn.Linear(2, 3).requires_grad_(False), torch.ones(2)
    whole = Holder(net, data, (data, "text", functools.partial(torch.add, other=data)), {"again": net})
    assert whole.total == 2
    made = moved(whole, "meta")
    assert {t.device.type for t in tensors_of(made)} == {"meta"}
    assert {t.device.type for t in tensors_of(whole)} == {"cpu"}  # nothing was moved in place
    assert made.by_name["again"] is made.net and made.parts[0] is made.data  # what was one stays one
    assert not made.net.weight.requires_grad and made.total.device.type == "meta"
    assert moved(whole, "cpu") is whole


def test_a_network_is_moved_with_the_components_that_it_holds() -> None:
    net = bl.networks.Network(nn.Linear(2, 2))
    net.path = Holder(nn.Identity(), torch.ones(1))
    made = moved(net, "meta")
    assert made.path.data.device.type == "meta" and net.path.data.device.type == "cpu"
    assert device_of(made) == torch.device("meta") and device_of(nn.Identity()) is None


def test_evaluation_mode_is_put_back_for_each_module_also_after_an_error() -> None:
    net = nn.Sequential(nn.Dropout(), nn.BatchNorm1d(2))
    net[1].eval()  # a frozen part stays frozen
    with pytest.raises(RuntimeError), eval_mode(Holder(net, torch.ones(1))):
        assert not net.training and not net[0].training and not torch.is_grad_enabled()
        raise RuntimeError
    assert net.training and net[0].training and not net[1].training and torch.is_grad_enabled()
    with eval_mode(net, grad=True):
        assert torch.is_grad_enabled()


def uses(flow: bl.Flow, weak: nn.Module | None = None) -> dict:
    guided = bl.Sampler(2, guidance=Guide(Weak(weak or Dropping()), Extrapolate(2.0)))
    x = bl.Rng(0).normal(torch.empty(8, 2))
    return {
        "sampler": lambda: bl.Sampler(2)(flow, x),
        "guidance by another network": lambda: guided(flow, x),
        "inverse": lambda: bl.Sampler(2).invert(flow, x),
        "likelihood": lambda: bl.log_prob(flow, x, steps=2),
        "pairs": lambda: bl.reflow_pairs(flow, bl.Sampler(2), 8, bl.Rng(1), like=x).x1,
        "held-out loss": lambda: torch.tensor(HeldOut(FlowMatching(), bl.Batch(x))(flow.field).value),
    }


@pytest.mark.parametrize("name", uses(bl.Flow(None)))
def test_dropout_never_acts_in_use_and_the_network_is_left_in_its_mode(name) -> None:
    net, weak = Dropping(), Dropping()
    use = uses(bl.Flow(net), weak)[name]
    before = torch.get_rng_state()
    assert torch.equal(use(), use())
    assert torch.equal(before, torch.get_rng_state())
    assert net.training and net.drop.training and weak.drop.training


def test_fit_gives_back_networks_in_evaluation_mode() -> None:
    for ema in (EMA(1.0), None):
        made = fit(
            Dropping(),
            FlowMatching(),
            torch.ones(8, 2),
            Training(steps=1, batch_size=4, ema=ema),
            rng=bl.Rng(0),
            log=lambda entry: None,
        )
        assert not made.training and not made.drop.training


def test_a_state_on_another_device_than_the_flow_is_refused() -> None:
    flow = bl.Flow(nn.Linear(2, 2, device="meta"))
    for work in (bl.Sampler(1), bl.Sampler(1).invert, bl.log_prob):
        with pytest.raises(BeelineError, match=r"is on cpu, and Linear on meta; a flow runs on one device: move"):
            work(flow, torch.ones(1, 2))


class Own(nn.Module):
    """A network as users write them, with the time beside the state."""

    def __init__(self) -> None:
        super().__init__()
        with bl.Rng(3).ambient():
            self.body = nn.Sequential(nn.Linear(3, 32), nn.LayerNorm(32), nn.SiLU(), nn.Linear(32, 2))

    def forward(self, x, t, cond=None):
        return self.body(torch.cat([x, t[:, None]], 1))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_times_states_and_losses_of_narrow_data_are_float32(dtype) -> None:
    batch = bl.Batch(bl.Rng(0).normal(torch.empty(20_000, 2)).to(dtype), weight=torch.ones(20_000, dtype=dtype))
    seen = []

    def field(x, t, cond=None):
        seen.append((x, t))
        return -x

    loss = FlowMatching()(field, batch, bl.Rng(0))
    x, t = seen[0]
    assert x.dtype == t.dtype == loss.value.dtype == loss.per_sample.dtype == torch.float32
    assert len(t.unique()) > 19_900  # 973 in bfloat16
    exact = FlowMatching()(field, bl.Batch(batch.x1.float()), bl.Rng(0))
    assert torch.equal(loss.value, exact.value)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_users_network_of_half_precision_learns_is_measured_and_is_drawn_from(dtype) -> None:
    whole, half = Own(), Own().to(dtype)
    x = bl.Rng(0).normal(torch.empty(64, 2))
    near = {"atol": 0.03 if dtype == torch.bfloat16 else 0.004, "rtol": 0.0}
    made = bl.Sampler(8)(bl.Flow(half), x)
    assert made.dtype == torch.float32
    assert torch.allclose(made, bl.Sampler(8)(bl.Flow(whole), x), **near)
    wanted, loss = (FlowMatching()(net, bl.Batch(x), bl.Rng(1)) for net in (whole, half))
    assert loss.value.dtype == torch.float32 and torch.allclose(loss.value, wanted.value, **near)
    loss.value.backward()
    assert half.body[0].weight.grad.dtype == dtype
    assert HeldOut(FlowMatching(), bl.Batch(x))(half).value == pytest.approx(
        HeldOut(FlowMatching(), bl.Batch(x))(whole).value, abs=0.03
    )
    with torch.no_grad():
        assert torch.allclose(
            bl.log_prob(bl.Flow(half), x[:8], steps=4), bl.log_prob(bl.Flow(whole), x[:8], steps=4), atol=0.1
        )


def test_autocast_changes_networks_and_neither_couplings_nor_losses() -> None:
    x = bl.Rng(0).normal(torch.empty(256, 64))
    objective = FlowMatching(coupling=bl.couplings.MinibatchOT())
    wanted = objective.pairs(bl.Batch(x), bl.Rng(1)).x0
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(objective.pairs(bl.Batch(x), bl.Rng(1)).x0, wanted)
        loss = FlowMatching()(Own(), bl.Batch(x[:, :2]), bl.Rng(0))
        made = bl.Sampler(4)(bl.Flow(Own()), x[:, :2])
    assert loss.value.dtype == loss.per_sample.dtype == made.dtype == torch.float32


@pytest.mark.parametrize(
    "words",
    [
        ["train", "digits", "--out", "run"],
        ["distill", "run", "reflow", "--out", "student"],
        ["sample", "run", "--out", "x.npy"],
        ["fit-solver", "run"],
        ["evaluate", "run"],
        ["compare", "run"],
        ["demo", "--out", "demo"],
    ],
    ids=lambda words: words[0],
)
def test_every_verb_refuses_a_device_that_is_not_there_before_any_work(words, tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    assert run([*words, "--device", "cuda:99"]) == 2
    assert "device='cuda:99' was given, but torch cannot use it on this machine" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
