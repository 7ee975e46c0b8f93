"""Precision and memory: settings that must not change the losses, and estimates compared with measurements."""

import pytest
import torch
from torch import nn

from beeline.core.declared import Holding
from beeline.core.errors import BeelineError
from beeline.core.rng import Rng
from beeline.core.types import Batch
from beeline.fields.flow import Network
from beeline.networks.dit import DiT
from beeline.networks.unet import UNet
from beeline.objectives.matching import FlowMatching
from beeline.training.compute import Compute, full
from beeline.training.config import Training
from beeline.training.fit import fit
from beeline.training.memory import Peak, Tracker, size
from beeline.training.optim.ema import EMA, PowerEMA
from beeline.training.optim.learning_rate import Constant
from beeline.training.optim.optimizers import AdamW, DoG
from beeline.training.plan import plan

IMAGES = Rng(0).normal(torch.empty(32, 1, 8, 8))
LABELS = {"label": torch.arange(32) % 10}
DATA = Batch(IMAGES, cond=LABELS)


def dit(**more):
    with Rng(0).ambient():
        conditions = {"label": {"classes": 10}}
        return Network(DiT((1, 8, 8), **{"width": 32, "depth": 3, "conditions": conditions} | more))


def losses(net, compute, data=DATA, steps=6):
    entries = []
    training = Training(steps=steps, microbatches=2, batch_size=16, lr=Constant(5e-3), ema=EMA(4.0), compute=compute)
    made = fit(net, FlowMatching(), data, training, rng=Rng(0), log=entries.append)
    return torch.tensor([e["loss"] for e in entries if "loss" in e]), made


def test_recomputation_gives_identical_losses_with_dropout():
    plain, one = losses(dit(dropout=0.2), Compute())
    for every in (1, 2):
        net = dit(dropout=0.2)
        again, made = losses(net, Compute(recompute=every))
        assert torch.equal(plain, again)
        assert all(torch.equal(p, q) for p, q in zip(one.parameters(), made.parameters(), strict=True))
        for each in (net, made):  # undone afterwards
            assert not any("forward" in m.__dict__ for m in each.modules())


def test_recomputation_saves_memory():
    def peak(compute):
        net = dit(depth=6)
        with compute.prepared({"net": net}), Tracker() as tracker:
            FlowMatching()(net, DATA, Rng(0)).value.backward()
        return tracker.peak

    full_, every, second = (peak(Compute(recompute=r)) for r in (0, 1, 2))
    assert every < second < full_ and every < 0.5 * full_


def test_bfloat16_gives_the_same_losses_up_to_rounding_and_float32_weights():
    plain, _ = losses(dit(), Compute())
    short, made = losses(dit(), Compute(bf16=True))
    assert not torch.equal(plain, short) and (plain - short).abs().max() < 0.03 * plain.max()
    assert all(p.dtype == torch.float32 for p in made.parameters())
    dtypes = []
    with Compute(bf16=True).autocast(torch.device("cpu")):
        x = torch.ones(4, 4)
        dtypes.append((x @ x).dtype)
        with full(torch.device("cpu")):
            dtypes.append((x @ x).dtype)
    assert dtypes == [torch.bfloat16, torch.float32]


def test_the_parts_of_a_container_are_compiled_separately():
    class Pair(Holding):
        parts = ("first", "second")

        def __init__(self):
            super().__init__()
            self.first, self.second = dit(), nn.ModuleList([nn.Linear(2, 2), nn.Linear(2, 2)])

    pair = Pair()
    parts = [pair.first, *pair.second]
    with Compute(compile="eager").prepared({"network": pair}):
        assert all(part._compiled_call_impl is not None for part in parts) and pair._compiled_call_impl is None
    assert all(part._compiled_call_impl is None for part in parts)


def test_compiled_and_channels_last_networks_give_the_same_losses():
    plain, _ = losses(dit(), Compute())
    net = dit()
    compiled, _ = losses(net, Compute(compile="eager"))
    assert torch.allclose(plain, compiled, atol=1e-5) and net._compiled_call_impl is None

    def unet():
        with Rng(0).ambient():
            return Network(UNet((1, 8, 8), conditions={"label": {"classes": 10}}))

    plain, _ = losses(unet(), Compute())
    channels_last, made = losses(unet(), Compute(channels_last=True))
    assert torch.allclose(plain, channels_last, atol=1e-4)
    kernels = [p for p in made.parameters() if p.ndim == 4 and p.shape[1] > 1 and p.shape[2] > 1]
    assert kernels and all(p.is_contiguous(memory_format=torch.channels_last) for p in kernels)


def test_recomputation_is_refused_where_it_cannot_work():
    with pytest.raises(BeelineError, match="compute.recompute is -1"):
        Compute(recompute=-1)
    with pytest.raises(BeelineError, match="declares no blocks"):
        with Compute(recompute=1).prepared({"net": nn.Linear(2, 2)}):
            pass
    net = dit()
    x, t = IMAGES[:4], torch.full((4,), 0.5)
    with Compute(recompute=1).prepared({"net": net}), pytest.raises(BeelineError, match="forward-mode derivatives"):
        torch.func.jvp(lambda x: net(x, t, {"label": torch.zeros(4, dtype=torch.int64)}), (x,), (x,))


def test_the_tracker_counts_live_tensors():
    with Tracker() as tracker:
        a = torch.ones(1000)
        b = a + 1
        view = b[:10]  # shares memory
        del a
        c = torch.ones(500)
    assert tracker.peak == 8000 and tracker.live == 6000 and len(view) == 10 and len(c) == 500


@pytest.mark.parametrize("compute", [Compute(), Compute(recompute=1)], ids=["plain", "recompute"])
def test_a_plan_predicts_the_memory_of_a_step(compute):
    net = dit(width=64, depth=4)
    training = Training(steps=10, batch_size=96, lr=Constant(1e-3), ema=EMA(4.0), compute=compute, watch_every=100)
    made = plan(net, FlowMatching(), DATA, training, rng=Rng(0), trial=3)
    with compute.prepared({"net": net}), Tracker() as tracker:
        FlowMatching()(
            net, Batch(IMAGES.repeat(3, 1, 1, 1), cond={"label": torch.arange(96) % 10}), Rng(0)
        ).value.backward()
    assert abs(made.activations / tracker.peak - 1) < 0.05
    count = sum(p.numel() for p in net.parameters())
    assert made.parameters == count and made.gradients == 4 * count and made.optimizer == 8 * count
    assert made.averages == 4 * count and made.peak > made.weights + made.optimizer + made.averages + made.gradients
    assert made.seconds is not None and made.seconds > 0
    assert "peak memory" in "\n".join(made.lines())


def test_a_plan_includes_disk_space_and_optimizer_state(tmp_path):
    net = dit()
    training = Training(
        steps=10, batch_size=4, lr=Constant(1.0), optimizer=DoG(), ema=(PowerEMA(0.05), PowerEMA(0.1)),
        checkpoint_every=5, checkpoint_keep=2, snapshot_every=5,
    )  # fmt: skip
    made = plan(net, FlowMatching(), DATA, training, rng=Rng(0), trial=0)
    assert made.optimizer == made.gradients and made.averages == 2 * made.gradients and made.seconds is None
    fit(net, FlowMatching(), DATA, training, rng=Rng(0), log=lambda e: None, checkpoint_dir=tmp_path)
    written = sum(p.stat().st_size for p in (tmp_path / "step-00000010").glob("*.safetensors"))
    assert abs(written / made.checkpoint - 1) < 0.1
    total = sum(p.stat().st_size for p in tmp_path.rglob("*.safetensors"))
    assert total <= made.disk


def test_the_last_log_entry_has_the_measured_and_the_predicted_peak():
    entries = []
    training = Training(steps=2, batch_size=8, optimizer=AdamW())
    fit(dit(), FlowMatching(), DATA, training, rng=Rng(0), log=entries.append, predicted=10 * 2**20)
    assert entries[-1]["predicted_bytes"] == 10 * 2**20 and entries[-1]["step"] == 2
    assert entries[-1]["peak_bytes"] >= 0


def test_the_peak_memory_of_a_process_is_measured():
    peak = Peak(torch.device("cpu"))
    block = torch.ones(16 * 2**20)  # 64 MiB
    del block
    if peak.bytes() == 0:
        pytest.skip("the system does not report the memory of a process")
    assert 60 * 2**20 < peak.bytes() < 90 * 2**20
    assert size(1536) == "1.5 KiB" and size(5) == "5 B" and size(2**50) == "1024.0 TiB"


def test_an_unknown_backend_is_refused_when_it_is_set() -> None:
    with pytest.raises(ValueError, match="compute.compile is 'inductr'.*did you mean 'inductor'"):
        Compute(compile="inductr")
    assert Compute(compile="eager").compile == "eager"
