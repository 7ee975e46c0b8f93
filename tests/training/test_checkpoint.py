"""Checkpoints: atomic writes, damaged ones detected, no pickles."""

import json

import pytest
import torch

from beeline.core.errors import BeelineError
from beeline.training import checkpoint, compare
from beeline.training.checkpoint import Checkpoint
from beeline.training.distributed.writer import write


def save(root, step, value=0.0, keep=3, **state):
    tensors = {"network": {"w": torch.full((4, 3), value), "step": torch.tensor(7.0)}, "empty": {}}
    return write(root, Checkpoint(step, tensors, {"step": step, **state}), keep)


def test_a_checkpoint_is_read_back_and_consists_of_safetensors_and_json(tmp_path):
    path = save(tmp_path, 3, 1.5, note="x")
    assert {p.suffix for p in path.iterdir()} == {".safetensors", ".json"}
    assert checkpoint.newest(tmp_path) == path and checkpoint.flaw(path) is None
    found = checkpoint.read(path)
    assert torch.equal(found.tensors["network"]["w"], torch.full((4, 3), 1.5)) and found.state["note"] == "x"
    assert found.tensors["network"]["step"].shape == () and found.step == 3
    assert checkpoint.newest(path) == path


def test_only_the_newest_and_the_permanent_checkpoints_are_kept(tmp_path):
    save(tmp_path, 1, permanent=True)
    for step in (2, 3, 4):
        save(tmp_path, step, keep=2)
    assert [checkpoint.number(p) for p in checkpoint.steps(tmp_path)] == [4, 3, 1]
    save(tmp_path, 4, 2.0)  # again, after a resume: replaced
    assert torch.equal(checkpoint.read(checkpoint.newest(tmp_path)).tensors["network"]["w"], torch.full((4, 3), 2.0))


@pytest.mark.parametrize("damage", ["cut", "flip", "gone", "no manifest", "bad manifest"])
def test_a_damaged_checkpoint_is_reported_and_the_previous_one_is_used(tmp_path, damage):
    good, bad = save(tmp_path, 1), save(tmp_path, 2)
    file = bad / "network.safetensors"
    if damage == "cut":
        file.write_bytes(file.read_bytes()[:40])
    elif damage == "flip":
        raw = bytearray(file.read_bytes())
        raw[-1] ^= 1
        file.write_bytes(raw)
    elif damage == "gone":
        file.unlink()
    elif damage == "no manifest":
        (bad / "manifest.json").unlink()
    else:
        (bad / "manifest.json").write_text(json.dumps([1]))
    warnings = []
    assert checkpoint.newest(tmp_path, warnings.append) == good
    expected = "manifest" if "manifest" in damage else "network.safetensors"
    assert len(warnings) == 1 and expected in warnings[0] and "step-00000002" in warnings[0]
    with pytest.raises(BeelineError, match="cannot be used"):
        checkpoint.newest(bad)
    checkpoint.remove(good)
    with pytest.raises(BeelineError, match="no checkpoint in .* can be used"):
        checkpoint.newest(tmp_path, warnings.append)


def test_files_of_a_killed_writer_are_removed(tmp_path):
    save(tmp_path, 1)
    half = tmp_path / ".writing-step-00000002"
    half.mkdir()
    (half / "network.safetensors").write_bytes(b"half")
    (tmp_path / "step-00000001").rename(tmp_path / ".writing-old-step-00000001")  # killed between two renames
    checkpoint.clean_up(tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["step-00000001"]
    assert checkpoint.flaw(tmp_path / "step-00000001") is None


def test_directories_without_checkpoints_are_refused(tmp_path):
    with pytest.raises(BeelineError, match="there is no checkpoint"):
        checkpoint.newest(tmp_path / "nowhere")
    with pytest.raises(BeelineError, match="is not a checkpoint"):
        checkpoint.number(tmp_path)


def test_settings_and_their_difference():
    from beeline.objectives.losses.basic import Huber
    from beeline.objectives.matching import FlowMatching
    from beeline.training.config import Training

    old, new = compare.settings(Training(steps=5)), compare.settings(Training(steps=6, clip=None))
    assert compare.difference(old, new) == ["clip: 1.0 -> null", "steps: 5 -> 6"]
    assert json.loads(json.dumps(old)) == old
    lines = compare.difference(compare.settings(FlowMatching()), compare.settings(FlowMatching(distance=Huber(1.0))))
    assert len(lines) == 1 and lines[0].startswith("distance: ")
    a, b = (compare.settings({"x": torch.tensor([v])}) for v in (1.0, 2.0))
    assert compare.difference(a, b)
