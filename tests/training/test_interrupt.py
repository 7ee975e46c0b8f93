"""KeyboardInterrupt in a callback or in the objective: a checkpoint remains, and the message says how to continue."""

import pytest
import torch

import beeline as bl
from beeline.core.rng import Rng
from beeline.data.image_files import Digits
from beeline.networks.mlp import MLP
from beeline.objectives.matching import FlowMatching
from beeline.training import checkpoint
from beeline.training.callbacks import CallbackBase
from beeline.training.checks import Interrupted


class Stops(CallbackBase):
    """Raises KeyboardInterrupt at one step, as the interrupt of a kernel inside a callback does."""

    name, every = "stops", 1

    def __init__(self, at: int):
        self.at = at

    def evaluate(self, raw, ema, step):
        if step == self.at:
            raise KeyboardInterrupt
        return {}


class StopsInside:
    """An objective that is interrupted in one of its calls."""

    spec = FlowMatching().spec

    def __init__(self, at: int):
        self.calls, self.at = 0, at

    def __call__(self, field, batch, rng):
        self.calls += 1
        if self.calls == self.at:
            raise KeyboardInterrupt
        return FlowMatching()(field, batch, rng)


def network():
    with Rng(0).ambient():
        return bl.Network(MLP(2, width=8, depth=1))


DATA = bl.distributions.TwoMoons().sample(64, Rng(1))
TRAINING = bl.Training(steps=8, batch_size=8, checkpoint_every=2)


def run(objective=None, folder=None, **more):
    objective = objective or FlowMatching()
    return bl.fit(
        network(), objective, DATA, TRAINING, log=lambda entry: None, checkpoint_dir=folder, device="cpu", **more
    )


def test_an_interrupt_in_a_callback_leaves_a_checkpoint_from_which_the_run_continues_exactly(tmp_path):
    whole = run()
    with pytest.raises(Interrupted, match="after step 5 and saved a checkpoint; continue with fit.*resume="):
        run(folder=tmp_path / "c", callbacks=[Stops(5)])
    assert checkpoint.number(checkpoint.newest(tmp_path / "c")) == 5
    rest = run(folder=tmp_path / "c", resume=tmp_path / "c")
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), rest.parameters(), strict=True))


def test_an_interrupt_within_an_update_leaves_the_last_checkpoint(tmp_path):
    with pytest.raises(Interrupted, match="stopped within step 6; the last checkpoint is of step 4"):
        run(StopsInside(6), tmp_path / "c")
    with pytest.raises(Interrupted, match="stopped within step 2; there is no checkpoint yet"):
        run(StopsInside(2), tmp_path / "d")


def test_an_interrupt_without_a_folder_says_that_nothing_was_saved():
    with pytest.raises(Interrupted, match="nothing was saved, because no checkpoint_dir was given"):
        run(callbacks=[Stops(3)])


def test_a_run_says_how_it_is_continued(tmp_path):
    recipe = bl.Run(
        data=Digits(),
        network={"is": "networks.MLP", "width": 8, "depth": 1},
        training=bl.Training(steps=4, batch_size=8),
    )
    out = tmp_path / "run"
    with pytest.raises(Interrupted) as found:
        bl.train(recipe, out=out, callbacks=[Stops(2)], device="cpu")
    assert f"continue with bl.train(..., out={str(out)!r}, resume=True)" in str(found.value)
    assert found.value.step == 2 and "beeline train" in str(found.value)
    bl.train(recipe, out=out, resume=True, device="cpu")
    assert (out / "bundle" / "flow.json").is_file()
