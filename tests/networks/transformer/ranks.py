"""The processes of the tests of engines with flow transformers; forks its ranks after torch is imported."""

import json
import os
import socket
import sys
import traceback
from pathlib import Path

import torch

from beeline.core.rng import Rng
from beeline.core.types import Batch, Loss
from beeline.fields.flow import Network
from beeline.networks.dit import DiT, MMDiT, UViT
from beeline.networks.transformer.experts import Experts
from beeline.networks.transformer.mixers import LinearAttention
from beeline.networks.transformer.positions import Rotary
from beeline.objectives.alignment import Noted
from beeline.objectives.matching import FlowMatching
from beeline.training.config import Training
from beeline.training.distributed import parallel
from beeline.training.fit import fit
from beeline.training.optim.learning_rate import Constant

LABEL, TEXT = {"label": {"classes": 3}}, {"text": {"length": 3, "size": 4}}
SIZE = {"width": 16, "depth": 2, "heads": 2}


def alive(net):
    """The network with weights that are not zero."""
    with Rng(1).ambient(), torch.no_grad():
        for p in net.parameters():
            p.add_(0.1 * torch.randn_like(p))
    return net


NETS = {
    "mmdit": lambda: MMDiT((1, 8, 8), **SIZE, single=1, conditions=LABEL),
    "experts": lambda: DiT((1, 8, 8), **SIZE, conditions=LABEL, feed=Experts(4)),
    "uvit": lambda: UViT((1, 8, 8), **SIZE, conditions=LABEL),
}
DIVIDED = {
    "dit": lambda: DiT((1, 8, 8), **SIZE, conditions=LABEL, positions=Rotary()),
    "linear": lambda: DiT((1, 8, 8), **SIZE, conditions=LABEL, mixer=LinearAttention()),
    "uvit": lambda: UViT((1, 8, 8), **SIZE, conditions=LABEL),
    "mmdit": lambda: MMDiT((1, 8, 8), **SIZE, single=1, conditions=TEXT, positions=Rotary()),
}


class Jvp:
    """A loss with a forward-mode derivative inside the graph."""

    def __call__(self, field, batch, rng):
        x0 = rng.normal(batch.x1)
        t = rng.fork("t").uniform(len(x0), x0)
        a = t[:, None, None, None]
        x, v = (1 - a) * x0 + a * batch.x1, batch.x1 - x0
        u, du = torch.func.jvp(lambda x, t: field(x, t, batch.cond), (x, t), (v, torch.ones_like(t)))
        error = (u - v + 0.1 * (1 - a) * du).square().mean((1, 2, 3))
        return Loss(error.mean(), {"loss": error.detach().mean()}, error.detach(), t)


def curve(engine, name, objective):
    """Losses and final weights of a short run."""
    entries = []
    with Rng(0).ambient():
        net = alive(NETS[name]())
    made = fit(
        Network(net),
        objective,
        Batch(Rng(1).normal(torch.empty(16, 1, 8, 8)), cond={"label": torch.arange(16) % 3}),
        Training(steps=4, microbatches=2, batch_size=8, lr=Constant(3e-3), ema=None, checkpoint_every=100),
        parallel=engine,
        rng=Rng(4),
        log=entries.append,
    )
    weights = torch.cat([p.detach().flatten() for p in made.parameters()])
    return {"loss": [e["loss"] for e in entries if "loss" in e], "weights": weights.tolist()}


def objectives(name):
    return {"plain": Noted(weights={"balance": 0.1}) if name == "experts" else FlowMatching(), "jvp": Jvp()}


def inputs(name):
    x, t = Rng(2).normal(torch.empty(2, 1, 8, 8)), torch.tensor([0.3, 0.8])
    if name != "mmdit":
        return x, t, {"label": torch.tensor([0, 2])}
    words = Rng(3).normal(torch.empty(2, 3, 4))
    words[1, 1:] = 0  # padding
    return x, t, {"text": words}


def passed(net, name, divided=lambda net: net, mean=lambda grad: grad):
    """Output, derivative along a direction, and gradients of all weights."""
    x, t, cond = inputs(name)
    whole = divided(net)
    slope = torch.func.jvp(lambda x: whole(x, t, cond), (x,), (x.cos(),))[1]
    out = whole(x, t, cond)
    out.square().mean().backward()
    grads = torch.cat([mean(p.grad).flatten() for p in net.parameters()])
    return {"out": out.flatten().tolist(), "slope": slope.flatten().tolist(), "grads": grads.tolist()}


def built(name):
    with Rng(0).ambient():
        return alive(DIVIDED[name]())


def work(out):
    from beeline.networks.transformer.sequence import SequenceParallel

    torch.set_num_threads(1)
    parallel.init_process_group(timeout=60)
    found = {f"{n} {o}": curve(parallel.FSDP(), n, made) for n in NETS for o, made in objectives(n).items()}
    for name in DIVIDED:
        found[f"divided {name}"] = passed(
            built(name), name, SequenceParallel, lambda grad: parallel.all_reduce_sum(grad) / 2
        )
    if os.environ["RANK"] == "0":
        out.write_text(json.dumps(found))
    parallel.destroy_process_group()


if __name__ == "__main__":
    import torch._dynamo  # imported once, before the forks
    import torch.distributed.fsdp
    import torch.distributed.tensor  # noqa: F401

    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    children = []
    for rank in range(2):
        if (child := os.fork()) == 0:
            os.environ |= {"MASTER_ADDR": "localhost", "MASTER_PORT": str(port), "WORLD_SIZE": "2"}
            os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank)}
            try:
                work(Path(sys.argv[1]))
            except BaseException:
                traceback.print_exc()
                os._exit(1)
            os._exit(0)
        children.append(child)
    for child in children:
        os.waitpid(child, 0)
