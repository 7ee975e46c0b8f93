"""The processes of the tests of parallel training: one program, which imports torch once and forks its ranks."""

import json
import os
import signal
import socket
import sys
import time
import traceback
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from beeline.core.rng import Rng
from beeline.core.types import Batch, Loss
from beeline.distillation.students import as_student_map
from beeline.fields.flow import Flow, Network
from beeline.networks.mlp import MLP
from beeline.objectives.games.adversarial import Adversarial
from beeline.objectives.games.game import ScoreGame
from beeline.objectives.games.generation import MapRollout
from beeline.objectives.maps.derivatives import FiniteDifference, ForwardMode
from beeline.objectives.matching import FlowMatching
from beeline.objectives.windows import Windowed
from beeline.training.compute import Compute
from beeline.training.config import Training
from beeline.training.distributed import parallel
from beeline.training.distributed.heartbeat import RankLost
from beeline.training.fit import fit
from beeline.training.optim.ema import EMA
from beeline.training.optim.learning_rate import Constant
from beeline.training.optim.optimizers import AdamW

STEPS = 25
SHORT = {"steps": 6, "checkpoint_every": 100}
LONG = ("flow", "jvp")  # objectives with all steps


class Blocks(nn.Module):
    """A small network with stacked blocks, dropout, and an unused parameter."""

    def __init__(self, width=24, unused=True):
        super().__init__()
        self.first = nn.Linear(4, width)
        self.stack = nn.ModuleList(
            [nn.Sequential(nn.Linear(width, width), nn.SiLU(), nn.Dropout(0.1)) for _ in range(3)]
        )
        self.last = nn.Linear(width, 3)
        self.unused = nn.Parameter(torch.zeros(5)) if unused else None
        self.register_buffer("scale", torch.tensor(1.0), persistent=False)
        self.stacks = {"stack": self.stack}

    def forward(self, x, t, cond=None):
        h = self.scale * self.first(torch.cat([x, t[:, None]], 1))
        for block in self.stack:
            h = h + block(h)
        return self.last(h)


class Jvp:
    """A loss with a forward-mode derivative inside the graph, like those of flow maps."""

    def __call__(self, field, batch, rng):
        x0 = rng.normal(batch.x1)
        t = rng.fork("t").uniform(len(x0), x0)
        x = (1 - t[:, None]) * x0 + t[:, None] * batch.x1
        v = batch.x1 - x0
        with rng.fork("dropout").ambient():  # the same mask in both passes
            u, du = torch.func.jvp(lambda x, t: field(x, t), (x, t), (v, torch.ones_like(t)))
        error = (u - v + 0.1 * (1 - t[:, None]) * du).square().mean(1)
        return Loss(error.mean(), {"loss": error.detach().mean()}, error.detach(), t)


@dataclass(frozen=True)
class Map:
    """A target with a derivative of the network itself, without gradients, as in flow maps."""

    derivative: Any = ForwardMode()

    def __call__(self, field, batch, rng):
        x0 = rng.normal(batch.x1)
        t = rng.fork("t").uniform(len(x0), x0)
        x = (1 - t[:, None]) * x0 + t[:, None] * batch.x1
        v = batch.x1 - x0
        with torch.no_grad(), rng.fork("dropout").ambient():
            du = self.derivative(field, (x, t), (v, torch.ones_like(t)))[1]
        with rng.fork("dropout").ambient():  # the same mask
            u = field(x, t)
        error = (u - v + 0.1 * (1 - t[:, None]) * du).square().mean(1)
        return Loss(error.mean(), {"loss": error.detach().mean()}, error.detach(), t)


@dataclass(frozen=True)
class Through:
    """A loss with a frozen teacher, also with a gradient through it to its input, as in score games."""

    teacher: Flow

    def __call__(self, field, batch, rng):
        t = rng.fork("t").uniform(len(batch.x1), batch.x1)
        x = t[:, None] * batch.x1 + (1 - t[:, None]) * rng.normal(batch.x1)
        assert not any(m.training for m in self.teacher.field.modules())
        weights = list(self.teacher.field.parameters())
        assert not any(p.requires_grad for p in weights)
        SHARDED.append([parallel.is_sharded(p) for p in weights])
        with torch.no_grad():
            target = self.teacher.field(x, t)
        u = field(x, t)
        error = (u - target).square().mean(1) + 0.1 * (self.teacher.field(x + u, t) - 1).square().mean(1)
        return Loss(error.mean(), {"loss": error.detach().mean()}, error.detach(), t)


SHARDED: list[list[bool]] = []  # by call of Through: whether the weights of the teacher are sharded


def network(unused=True, seed=0):
    with Rng(seed).ambient():
        return Blocks(unused=unused)


OBJECTIVES = {
    "flow": FlowMatching(),
    "jvp": Jvp(),
    "map": Map(),
    "difference": Map(FiniteDifference(0.03)),  # a smaller step would enlarge rounding
    "windows": Windowed(Flow(network(seed=3)), 2, 1),
    "through": Through(Flow(network(seed=3))),
}


def perceptron(seed):
    with Rng(seed).ambient():
        return Network(MLP(3, width=16, depth=2))


def jumping(seed):
    student = perceptron(seed)
    with Rng(seed).ambient():
        return as_student_map(Flow(student))


# several players: a student every second step, a fake network, and a critic on features of the fake network
GAME = ScoreGame(Flow(perceptron(3)), adversarial=Adversarial(0.1, on_fake=True, r1=0.1), ratio=2)
# a student with one to three jumps, whose number is drawn
ROLLOUT = ScoreGame(Flow(perceptron(3)), MapRollout(4), adversarial=Adversarial(0.1), ratio=1)


def data():
    x = Rng(1).normal(torch.empty(50, 3))
    return Batch(0.3 * x + torch.tensor([1.0, -1.0, 0.5]))


def train(engine, objective, log, **more):
    training = more.pop("training", None) or settings(**({} if objective in LONG else SHORT))
    net = more.pop("net", None) or network()
    return fit(
        net,
        (OBJECTIVES | {"game": GAME, "rollout": ROLLOUT})[objective],
        data(),
        training,
        parallel=engine,
        rng=Rng(4),
        log=log,
        **more,
    )


def settings(**more):
    return Training(
        **{
            "steps": STEPS,
            "microbatches": 4,
            "batch_size": 8,
            "optimizer": AdamW(weight_decay=0.01),
            "lr": Constant(5e-3),
            "ema": (EMA(5.0, 0), EMA(20.0)),
            "checkpoint_every": 10,
            "watch_every": 5,
        }
        | more
    )


def curve(engine, objective, **more):
    """The log and the final weights of a run, as plain data."""
    entries = []
    SHARDED.clear()
    made = train(engine, objective, entries.append, **more)
    entries = [e for e in entries if "loss" in e]
    weights = torch.cat([p.detach().flatten() for p in made.parameters()])
    return {
        "loss": [e["loss"] for e in entries],
        "grad_norm": [e["grad_norm"] for e in entries],
        "update_norm": [e["update_norm"] for e in entries if "update_norm" in e],
        "weights": weights.tolist(),
        "sharded": sorted({all(call) for call in SHARDED}),
    }


def equal(out, engines):
    """The same run with every engine, and runs that are resumed from another engine."""
    found, world = {}, engines["fsdp"].world
    for name, engine in engines.items():
        if world > 2 and name == "ddp":
            continue
        for objective in OBJECTIVES if world == 2 else ("flow",):
            folder = out / f"{name}{world}" if objective == "flow" else None
            found[f"{name} {objective}"] = curve(engine, objective, checkpoint_dir=folder)
        if world == 2:
            found |= special(name, engine)
        if world == 2:  # resume the run of one process
            found[f"{name} resumed"] = curve(engine, "flow", resume=out / "single" / "step-00000010")
    return found


SPECIAL = {
    "used": {"net": lambda: network(unused=False), "training": lambda: settings(**SHORT)},
    "bf16": {"training": lambda: settings(compute=Compute(bf16=True), **SHORT)},
    "mixed": {"training": lambda: settings(compute=Compute(bf16=True), **SHORT)},
    "game": {"net": lambda: perceptron(0), "training": lambda: settings(**SHORT)},
    "rollout": {"net": lambda: jumping(0), "training": lambda: settings(**SHORT)},
}
OF = {"mixed": "map", "game": "game", "rollout": "rollout"}  # the objective, where it is not "flow"


def special(name, engine):
    """Runs of a network without unused parameters, in bfloat16, and of one that is on "meta" in other ranks."""
    found, searches, real = {}, [], parallel.DDP._wrapped

    def wrapped(self, player, search):
        searches.append(search)
        return real(self, player, search)

    parallel.DDP._wrapped = wrapped
    for what, more in SPECIAL.items():
        searches.clear()
        found[f"{name} {what}"] = curve(engine, OF.get(what, "flow"), **{k: make() for k, make in more.items()})
        found[f"{name} {what}"]["search"] = list(searches)
    parallel.DDP._wrapped = real
    if engine.shards:
        for kind, device in (("whole", "cpu"), ("meta", "meta" if engine.rank else "cpu")):
            found[f"{name} {kind}"] = curve(engine, "flow", net=network().to(device), training=settings(**SHORT))
    return found


def lose_rank(how, rank, engine):
    """Rank 1 dies or hangs in its twelfth microbatch."""
    count = 0

    class Feed:
        def microbatch(self, number, size):
            nonlocal count
            count += 1
            if rank == 1 and count == 12:
                if how == "die":
                    os.kill(os.getpid(), signal.SIGKILL)
                time.sleep(100)
            return Batch(torch.ones(size, 3))

    try:
        fit(network(), FlowMatching(), Feed(), settings(), parallel=engine, rng=Rng(4), log=lambda entry: None)
    except RankLost as error:
        return {"message": str(error), "ranks": error.ranks}
    return {"message": "no rank was lost", "ranks": []}


def work(out, scenario):
    torch.set_num_threads(1)
    rank = int(os.environ["RANK"])
    parallel.init_process_group(timeout=60 if scenario == "equal" else int(os.environ.get("LOST_RANK_TIMEOUT", "20")))
    engines = {"ddp": parallel.DDP(), "fsdp": parallel.FSDP()}
    found = equal(out, engines) if scenario == "equal" else lose_rank(scenario, rank, engines["ddp"])
    if rank == 0:
        (out / f"{scenario}-{os.environ['WORLD_SIZE']}.json").write_text(json.dumps(found))
    if scenario == "equal":
        parallel.destroy_process_group()


def ranks(world, out, scenario):
    """Fork the ranks of one scenario; wait for rank 0, and for the others unless the scenario loses one."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    children = []
    for rank in range(world):
        child = os.fork()
        if child == 0:
            os.environ |= {"MASTER_ADDR": "localhost", "MASTER_PORT": str(port), "WORLD_SIZE": str(world)}
            os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank)}
            code = 1
            try:
                work(out, scenario)
                code = 0
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(code)
        children.append(child)
    if scenario != "equal":
        os.waitpid(children[0], 0)
        for child in children[1:]:
            os.kill(child, signal.SIGKILL)
    for child in children[scenario != "equal" :]:
        os.waitpid(child, 0)


if __name__ == "__main__":
    import torch._dynamo  # imported once, before the forks
    import torch.distributed.checkpoint
    import torch.distributed.fsdp  # noqa: F401
    import torch.distributed.tensor  # noqa: F401

    for part in sys.argv[2:]:
        scenario, world = part.split(":")
        ranks(int(world), Path(sys.argv[1]), scenario)
