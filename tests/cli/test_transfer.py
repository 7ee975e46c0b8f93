"""Mixtures by ``beeline adapt``, and the change of an adapted flow carried over to a flow of another width."""

import numpy as np
import pytest
import torch

from beeline.cli.main import run
from beeline.config import build as config
from beeline.core.errors import BeelineError
from beeline.core.rng import Rng
from beeline.data.image_files import Digits
from beeline.fields.flow import Flow, Network
from beeline.networks.adapters.inside import backbone_of
from beeline.networks.adapters.members.mixture import fixed
from beeline.networks.dit import DiT
from beeline.runs.adapters.files import load as load_file
from beeline.runs.adapters.samples import SamplesOf
from beeline.runs.bundle import Bundle, load

QUICK = ["--set", "training.steps=2", "--set", "training.batch_size=8", "--no-report"]


def saved(path, width):
    modality = Digits().modality().fit(Digits().load()[0])
    with Rng(0).ambient():
        net = Network(DiT(modality.shape, width=width, depth=1, heads=2, conditions=modality.conditions))
        torch.nn.init.normal_(net.backbone.out.weight, std=0.1)
    lineage = {"made_by": "train", "data": config.describe(Digits())}
    return Bundle(Flow(net, null={"label": 10}), modality=modality, lineage=lineage).save(path)


@pytest.mark.slow
def test_a_mixture_is_trained_and_samples_of_it_adapt_a_wider_flow(tmp_path, capsys):
    narrow, wide = saved(tmp_path / "narrow", 16), saved(tmp_path / "wide", 32)
    words = ["adapt", str(narrow), "Mixture((LoRA(1), LoRA(2)), Task(10))", *QUICK, "--out", str(tmp_path / "mixed")]
    assert run(words) == 0
    made = load(tmp_path / "mixed")
    delta = backbone_of(made.flow.field).settings["delta"]
    assert [expert.rank for expert in delta.experts] == [1, 2] and delta.gate.tasks == 10
    x, t, cond = torch.zeros(2, 1, 8, 8), torch.full((2,), 0.5), {"label": torch.tensor([3, 3])}
    own = backbone_of(fixed(made.flow.field, 3)).merged()
    assert torch.allclose(own(x, t, cond), backbone_of(made.flow.field)(x, t, cond), atol=1e-5)
    capsys.readouterr()
    assert run(["lora", "merge", str(tmp_path / "mixed"), "--out", str(tmp_path / "merged")]) == 2
    assert "fixed(network, task)" in " ".join(capsys.readouterr().err.split())
    assert run(["adapt", str(tmp_path / "mixed"), "LoRA(2)", *QUICK, "--out", str(tmp_path / "over")]) == 0
    over, again = (
        load(tmp_path / "over").flow.field,
        load_file(made.flow.field, tmp_path / "over" / "adapter.safetensors"),
    )
    assert torch.equal(over(x, t, cond), again[0](x, t, cond)), "a change over a mixture has its own file"
    data = SamplesOf(str(tmp_path / "mixed"), 30)
    raw, held = data.load()
    assert len(raw) == 30 and len(held) == 3
    batch = data.modality().encode(raw)
    assert torch.equal(batch.cond["label"], torch.arange(30) % 10)
    assert np.array_equal(raw.pixels, data.load()[0].pixels), "the same every time"
    source = ["--from", str(tmp_path / "mixed"), "--set", "data.count=20"]
    assert run(["adapt", str(wide), "LoRA", *source, *QUICK, "--out", str(tmp_path / "carried")]) == 0
    lineage = load(tmp_path / "carried").lineage
    assert lineage["data"]["is"] == "data.SamplesOf" and lineage["data"]["count"] == 20
    both = ["adapt", str(wide), "LoRA", *source, "--data", "Digits()", *QUICK, "--out", str(tmp_path / "no")]
    assert run(both) == 2
    with pytest.raises(BeelineError, match="nowhere"):
        SamplesOf(str(tmp_path / "nowhere")).load()
