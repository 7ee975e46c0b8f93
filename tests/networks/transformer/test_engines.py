"""Flow transformers in several processes, recomputed and compiled: the numbers of one plain process."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch._dynamo.testing import CompileCounterWithBackend

from beeline.core.errors import BeelineError
from beeline.core.rng import Rng
from beeline.networks.dit import DiT
from beeline.networks.transformer.experts import Experts
from beeline.networks.transformer.feeds import FeedForward
from beeline.networks.transformer.layout import collected_notes
from beeline.training.compute import recomputed
from beeline.training.distributed.parallel import SingleDevice

sys.path.insert(0, os.path.dirname(__file__))
import ranks  # noqa: E402

CASES = [f"{net} {objective}" for net in ranks.NETS for objective in ("plain", "jvp")]


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """What two processes give."""
    out = tmp_path_factory.mktemp("ranks") / "found.json"
    here = Path(__file__).parent
    path = os.pathsep.join([str(here.parents[2]), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, str(here / "ranks.py"), str(out)],
        env=os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert out.exists(), done.stderr
    return json.loads(out.read_text())


def close(one, two, bound=1e-5):
    assert one.keys() == two.keys()
    for what in one:
        a, b = torch.tensor(one[what]), torch.tensor(two[what])
        assert a.shape == b.shape and len(a) > 0 and (a - b).abs().max() <= bound, what


@pytest.mark.slow
@pytest.mark.engine
@pytest.mark.parametrize("case", CASES)
def test_sharded_weights_give_the_losses_of_one_process(found, case):
    name, what = case.split()
    one = ranks.curve(SingleDevice(), name, ranks.objectives(name)[what])
    close(one, found[case])
    assert one["loss"][0] != one["loss"][-1]


@pytest.mark.slow
@pytest.mark.engine
@pytest.mark.parametrize("name", ranks.DIVIDED)
def test_divided_tokens_give_outputs_derivatives_and_gradients_of_one_process(found, name):
    close(ranks.passed(ranks.built(name), name), found[f"divided {name}"])


def test_tokens_are_divided_in_a_process_group_alone():
    from beeline.networks.transformer.sequence import SequenceParallel

    with pytest.raises(BeelineError, match="initialised process group"):
        SequenceParallel(ranks.built("dit"))


@pytest.mark.parametrize("notes", [False, True])
@pytest.mark.parametrize("name", ranks.NETS)
def test_recomputed_blocks_give_equal_gradients_and_notes(name, notes):
    def passed(every):
        with Rng(0).ambient():
            net = ranks.alive(ranks.NETS[name]())
        x, t, cond = ranks.inputs("dit")

        def loss():
            with collected_notes() as seen:
                out = net(x, t, cond)
            return out.square().mean() + (sum(seen[0].values()) if notes and seen[0] else 0)

        if every:
            with recomputed(net, every):
                loss().backward()
        else:
            loss().backward()
        return {n: p.grad for n, p in net.named_parameters()}

    plain = passed(0)
    for every in (1, 2):
        again = passed(every)
        assert all(torch.equal(plain[n], again[n]) for n in plain)
    assert plain.keys() and all(g is not None for g in plain.values())


@pytest.mark.slow
@pytest.mark.parametrize("feed", [FeedForward(), Experts(4)], ids=repr)
def test_compiled_networks_give_equal_outputs_without_further_compilation(feed):
    with Rng(0).ambient():
        net = ranks.alive(DiT((1, 8, 8), width=16, depth=1, heads=2, feed=feed))
    x, t, _ = ranks.inputs("dit")
    torch._dynamo.reset()
    counter = CompileCounterWithBackend("inductor")
    fast = torch.compile(net, backend=counter, dynamic=False)
    assert (fast(x, t) - net(x, t)).abs().max() <= 1e-5
    frames = counter.frame_count
    for step in (1, 2):
        assert (fast(x + step, t) - net(x + step, t)).abs().max() <= 1e-5
    assert counter.frame_count == frames > 0, "one shape is compiled once"
