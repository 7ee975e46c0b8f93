"""Objectives that wrap the network of a run: each is named in a recipe, trained, saved and sampled."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist

from beeline.config import build as config
from beeline.config.catalogue import CATALOGUE
from beeline.core.rng import Rng
from beeline.core.types import take
from beeline.density.likelihood import log_prob
from beeline.distillation.fit_solver import fit_solver
from beeline.distillation.students import OneStep
from beeline.fields.flow import Network, bind
from beeline.networks.hooks import block_name
from beeline.networks.mlp import MLP
from beeline.networks.tabular import TabularMLP
from beeline.objectives.classify import Classify
from beeline.objectives.heads import Beside, Head, conditioned_on_state
from beeline.objectives.matching import Drop
from beeline.paths.affine import Linear
from beeline.recipes import images, points
from beeline.recipes import sequences as recipe_sequences
from beeline.runs.bundle import load
from beeline.runs.features.bundles import OfBundle
from beeline.runs.features.hub import HubVision
from beeline.runs.networks import build_network
from beeline.runs.run import Distilled, Run, prepare, train
from beeline.sampling.sampler import Sampler
from beeline.solvers.latent_sde import LatentSDE
from beeline.solvers.runge_kutta import EULER, HEUN
from beeline.training.compute import recomputed
from beeline.training.distributed.parallel import FSDP

SMALL = {"training.steps": 2, "training.batch_size": 8, "sampler.steps": 3, "network.width": 16}


def quiet(entry: dict[str, Any]) -> None:
    """A log without output."""


def run_of(recipe: Run, objective: str, **more: Any) -> Run:
    depth = {} if recipe.network["is"] == "networks.UNet" else {"network.depth": 2}
    run: Run = config.change(recipe, {**SMALL, **depth, "objective": objective, **more})
    return run


def moons() -> Run:
    made: Run = config.change(points.two_moons(), {"data.n": 200})
    return made


def convolving() -> Run:
    """The digits with a network for every resolution."""
    network = {"is": "networks.UNet", "width": 16, "multipliers": [1, 2]}
    made: Run = config.change(images.digits(), {"network": network})
    return made


def patches() -> Run:
    """The digits with a transformer."""
    made: Run = config.change(images.digits(), {"network": {"is": "networks.DiT", "patch": 4, "heads": 2}})
    return made


def experts() -> Run:
    """The digits with a transformer of experts."""
    return config.change(patches(), {"network.feed": "Experts(2)"})  # type: ignore[no-any-return]


def causal() -> Run:
    """Points with a causal flow, which is sampled by one step."""
    made: Run = config.change(moons(), {"network": {"is": "networks.CausalFlow", "blocks": 2, "heads": 2}})
    return made


def sequences() -> Run:
    """Symbols of a Markov chain."""
    made: Run = config.change(recipe_sequences.sequences(), {"data.n": 100, "data.kept": 50, "data.length": 5})
    return made


BY_NAME = [
    (images.digits, "Separable", "networks.Helped"),
    (moons, "EncodedSource", "networks.Helped"),
    (images.digits, "EncodedSource", "networks.Helped"),
    (moons, "DeepSupervision", "networks.Deep"),
    (images.digits, "DeepSupervision", "networks.Deep"),
    (patches, "DeepSupervision", "networks.Deep"),
    (moons, "ConstantAccelerationMatching", "networks.SecondOrder"),
    (patches, "ConstantAccelerationMatching", "networks.SecondOrder"),
    (moons, "Hierarchical", "networks.RandomVelocity"),
    (convolving, "Hierarchical", "networks.RandomVelocity"),
    (moons, "LatentNoise", "networks.Helped"),
    (patches, "LatentNoise(path=Bridge(0.5))", "networks.Helped"),
    (moons, "Aligned", "networks.Helped"),
    (patches, "Aligned", "networks.Helped"),
    (convolving, "Aligned(encoder=RandomFeatures(16))", "networks.Helped"),
    (sequences, "Classify", "networks.PosteriorNetwork"),
    (sequences, "Classify(path=GumbelSoftmax())", "networks.PosteriorNetwork"),
    (sequences, "Classify(path=TokenMixture())", "networks.PosteriorNetwork"),
    (sequences, "Classify(path=TokenMixture(2.0), coupling=Independent(MaskTokens()))", "networks.PosteriorNetwork"),
    (convolving, "PyramidMatching", "networks.Network"),
    (convolving, "PyramidMatching(Pyramid((1.0, 0.5, 0.0), 0.2))", "networks.Network"),
]


@pytest.mark.parametrize(("recipe", "objective", "kind"), BY_NAME)
def test_a_wrapped_network_is_trained_saved_and_sampled(recipe: Any, objective: str, kind: str, tmp_path: Path) -> None:
    run = run_of(recipe(), objective)
    bundle = train(run, tmp_path / "run", log=quiet)
    again = load(tmp_path / "run")
    assert config.describe(again.flow.field)["is"] == kind
    labels = torch.arange(4) % again.modality.conditions["label"]["classes"] if again.modality.conditions else None
    x0 = bundle.start(range(4))
    made = again.draw(x0, None if labels is None else {"label": labels})
    assert torch.isfinite(made).all()
    assert torch.equal(made, bundle.draw(x0, None if labels is None else {"label": labels}))
    seeds, how = [7, 2], again.sampler.seeded([7, 2], 0)
    pair = again.draw(again.start(seeds), None if labels is None else {"label": labels[:2]}, sampler=how)
    one = None if labels is None else {"label": labels[1:2]}
    alone = again.draw(again.start([2]), one, sampler=again.sampler.seeded([2], 0))
    assert torch.allclose(pair[1:], alone, atol=1e-5)  # the same sample alone and in a batch
    assert config.build(config.describe(run)) == run


# objectives for other data than moons, and required settings
SUITS: dict[str, Any] = {
    "Noted": experts,
    "Elastic": patches,
    "Classify": sequences,
    "PyramidMatching": convolving,
    "CausalLikelihood": causal,
}
DROPPED = {"GuidanceFree", "ModelGuidance", "Anticipating"}
# with a trained network, for distillation: contrastive, perceptual, PeRFlow, two hops
OF_DISTILLATIONS = {"Contrastive", "SelfPerceptual", "Windowed", "TwoHops", "InnerLoopMatching", "GuidanceDistilled"}
OF_DISTILLATIONS |= {"DecodingMatching", "Bootstrapping", "MarginalTransport"}
OF_DISTILLATIONS |= {"ScoreGame", "SampleDistance", "WithGame", "SplitGame"}
OF_DISTILLATIONS |= {"Instructed", "Recomposed"}  # of pairs and of several views, in test_editing.py
OF_OTHER_NETWORKS = {"Regression", "Reconstruction"}  # in the tests of the planner, and of latents


@pytest.mark.parametrize("name", [n for n in CATALOGUE["objectives"] if n not in OF_DISTILLATIONS | OF_OTHER_NETWORKS])
def test_every_objective_trains_from_a_recipe_by_its_name(name: str, tmp_path: Path) -> None:
    """With the held-out loss and its baselines at the end, as in every run."""
    recipe = SUITS.get(name, moons)
    more: dict[str, Any] = {"objective.objective.drop": Drop(0.1, null=2)} if name in DROPPED else {}
    more |= {"sampler.guidance": "Temperature(1.5)"} if name == "GuidanceFree" else {}
    more |= {"sampler.steps": 1, "sampler.solver": "EULER"} if name == "CausalLikelihood" else {}
    run = run_of(recipe(), name, **more)
    seen: list[dict[str, Any]] = []
    bundle = train(run, tmp_path / "run", log=seen.append)
    assert any("heldout" in entry for entry in seen)
    cond = bundle.condition(0 if bundle.modality.conditions else None, 2)
    assert torch.isfinite(bundle.draw(bundle.start(range(2)), cond)).all()


def test_the_extra_weights_are_learned(tmp_path: Path) -> None:
    """Training changes the probe, and the seed of the run determines its initial weights."""
    nets = [
        train(run_of(images.digits(), "Separable", **{"training.steps": n}), tmp_path / str(n), log=quiet).flow.field
        for n in (1, 3)
    ]
    probes = [net.helper.layers[0].weight for net in nets]
    assert probes[0].shape == (10, 16) and not torch.equal(*probes)


def test_a_flow_without_a_path_has_no_score(tmp_path: Path) -> None:
    run = run_of(moons(), "ConstantAccelerationMatching")
    assert not train(run, tmp_path / "run", log=quiet).flow.independent


REFUSED: list[tuple[Any, str, dict[str, Any], str]] = [
    (moons, "Separable(by=kind)", {}, "the class as the condition 'kind'"),
    (moons, "ConstantAccelerationMatching(coupling=Paired())", {}, "pairs"),
    (moons, "ConstantAccelerationMatching(coupling=Independent())", {}, "both networks learn means"),
    (moons, "PyramidMatching", {}, "it halves images"),
    (patches, "PyramidMatching", {}, "DiT, which does not take images of the first stage"),
    (moons, "Classify", {}, "not one-hot"),
    (moons, "Classify(path=GumbelSoftmax(), coupling=Independent(Simplex()))", {}, "belongs to another path"),
    (moons, "Dispersed(EncodedSource())", {}, "use the other order"),
    (sequences, "ModelGuidance", {}, "the data have none"),
    (sequences, "Anticipating", {}, "the data have none"),
]


@pytest.mark.parametrize(("recipe", "objective", "more", "words"), REFUSED)
def test_recipes_that_cannot_work_are_refused(
    recipe: Any, objective: str, more: Any, words: str, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=words):
        train(run_of(recipe(), objective, **more), tmp_path / "run", log=quiet)


def test_feature_maps_are_refused(tmp_path: Path) -> None:
    run = config.change(images.digits(), {"objective": "DeepSupervision", "training.steps": 1})
    run = config.change(run, {"network": {"is": "networks.UNet", "width": 16}})
    with pytest.raises(ValueError, match=r"vectors .B,D. or tokens"):
        train(run, tmp_path / "run", log=quiet)


def test_random_velocities_are_solved_with_euler_only(tmp_path: Path) -> None:
    bundle = train(run_of(moons(), "Hierarchical"), tmp_path / "run", log=quiet)
    cond = {"label": torch.zeros(3, dtype=torch.int64)}
    assert bundle.sampler.solver == EULER
    with pytest.raises(ValueError, match="its paths cross"):
        Sampler(2, solver=HEUN)(bundle.flow, bundle.start(range(3)), cond)


@pytest.mark.parametrize(
    ("recipe", "objective"),
    [(moons, "Hierarchical"), (convolving, "PyramidMatching"), (sequences, "Classify")]
    + [(sequences, "Classify(path=TokenMixture())")],
)
def test_operations_on_odes_refuse_other_flows(recipe: Any, objective: str, tmp_path: Path) -> None:
    bundle = train(run_of(recipe(), objective), tmp_path / "run", log=quiet)
    x0, flow = bundle.start(range(8)), bundle.flow
    for ask in (
        lambda: bundle.sampler.invert(flow, x0),
        lambda: log_prob(flow, x0),
        lambda: fit_solver(flow, like=x0, rng=Rng(0)),
        lambda: OneStep().networks(flow),
    ):
        with pytest.raises(ValueError, match="not sampled by an ODE"):
            ask()  # type: ignore[no-untyped-call]


def test_a_pyramid_needs_a_step_in_every_stage(tmp_path: Path) -> None:
    bundle = train(run_of(convolving(), "PyramidMatching"), tmp_path / "run", log=quiet)
    x0, cond = bundle.start(range(3)), {"label": torch.arange(3)}
    sizes: list[int] = []
    bundle.draw(x0, cond, sampler=Sampler(3, solver=EULER), watch=lambda x, t: sizes.append(x.shape[-1]))
    assert sizes == [2, 2, 4, 4, 8, 8]
    with pytest.raises(ValueError, match="3 steps or more"):
        Sampler(2)(bundle.flow, x0, cond)


def test_alignment_with_the_features_of_a_bundle(tmp_path: Path) -> None:
    """A transformer and a U-Net as encoders: with as many tokens as the network, or others, whose means are "
    "compared."""
    train(run_of(patches(), "FlowMatching"), tmp_path / "same", log=quiet)
    train(run_of(convolving(), "FlowMatching"), tmp_path / "other", log=quiet)
    shapes = [(4, 16), (16, 32)]
    for name, shape in zip(("same", "other"), shapes, strict=True):
        encoder = OfBundle(str(tmp_path / name))
        assert encoder(torch.zeros(2, 1, 8, 8)).shape == (2, *shape)
        assert encoder.dense(torch.zeros(2, 1, 8, 8), noises=1).shape[2:] == (8, 8)
        bundle = train(
            run_of(patches(), "Aligned", **{"objective.encoder": encoder}), tmp_path / f"to {name}", log=quiet
        )
        assert bundle.flow.field.helper(torch.zeros(1, 16)).shape == (1, shape[1])
    with pytest.raises(ValueError, match="a time is between"):
        OfBundle("runs/digits", t=2.0)


def test_alignment_with_a_model_of_the_hub(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    with Rng(0).ambient():
        sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
        transformers.ViTModel(transformers.ViTConfig(image_size=8, patch_size=4, **sizes)).save_pretrained(
            tmp_path / "vit"
        )
    encoder = HubVision(str(tmp_path / "vit"))
    assert encoder(torch.zeros(2, 1, 6, 6)).shape == (2, 4, 16)
    bundle = train(run_of(patches(), "Aligned", **{"objective.encoder": encoder}), tmp_path / "run", log=quiet)
    assert bundle.flow.field.helper(torch.zeros(1, 16)).shape == (1, 16)
    with pytest.raises(ValueError, match="nor is it a directory"):
        HubVision(str(tmp_path / "none"))(torch.zeros(1, 1, 8, 8))
    with pytest.raises(ValueError, match="it takes pictures"):
        encoder(torch.zeros(1, 2))


@pytest.mark.parametrize("objective", ["Classify", "Classify(path=TokenMixture())"])
def test_sequences_are_sampled_as_symbols(objective: str, tmp_path: Path) -> None:
    bundle = train(run_of(sequences(), objective), tmp_path / "run", log=quiet)
    x0 = bundle.start(range(6))
    x = bundle.draw(x0)
    assert ((x == 0) | (x == 1)).all() and torch.equal(x.sum(-1), torch.ones(6, 5))
    assert all(len(text) == 5 and set(text) <= set("ACGT") for text in bundle.sample(6))
    if "Token" in objective:
        with pytest.raises(ValueError, match="sampled by jumps"):
            Sampler(2, solver=HEUN)(bundle.flow, x0)
    else:  # the state is inside the simplex, and the classifier gives the symbol
        ends: list[torch.Tensor] = []
        bundle.draw(x0, watch=lambda x, t: ends.append(x))
        assert float(ends[-1].max()) < 1
        said = bundle.flow.field.logits(ends[-1], torch.ones(6)).argmax(-1)
        assert torch.equal(said, x.argmax(-1))


def test_the_denoiser_of_an_interpolant_is_in_the_bundle(tmp_path: Path) -> None:
    flow = train(run_of(moons(), "LatentNoise"), tmp_path / "run", log=quiet).flow
    cond = {"label": torch.zeros(2, dtype=torch.int64)}
    path: Any = flow.path
    solver = LatentSDE(path, bind(flow.field.helper, cond), 1.0, Rng(0))
    made = Sampler(4, solver=solver)(flow, torch.zeros(2, 2), cond)
    assert torch.isfinite(made).all() and not torch.equal(made[0], made[1])


@pytest.mark.parametrize("objective", ["Separable", "DeepSupervision", "Hierarchical", "LatentNoise", "EncodedSource"])
def test_the_blocks_of_wrapped_networks_are_found(objective: str) -> None:
    run = run_of(images.digits(), objective)
    modality = run.data.modality().fit(run.data.load()[0])
    net: Any = build_network(run.network, run.objective, run.seed, modality, modality.encode(run.data.load()[0]))
    networks = 2 if objective == "LatentNoise" else 1
    assert sum(len(stack) for stack in net.stacks.values()) == 2 * networks
    with recomputed(net, 1):  # which replaces the forward pass of every block
        assert all("forward" in block.__dict__ for stack in net.stacks.values() for block in stack)


def test_a_head_is_initialised_to_zero_and_block_names_need_blocks() -> None:
    with Rng(0).ambient():
        assert not Head(3, (2,), width=4, still=True)(torch.ones(2, 3)).any()
    assert block_name(None, "named") == "named"
    with pytest.raises(ValueError, match="no repeated blocks"):
        block_name(torch.nn.Linear(2, 2))


DIVIDED = ["EncodedSource", "DeepSupervision", "Aligned", "LatentNoise", "ConstantAccelerationMatching", "Hierarchical"]


def test_wrapped_networks_are_sharded_part_by_part(tmp_path: Path) -> None:
    """FSDP2 in one process: objectives call the parts of a network, and get the same loss and gradient."""
    dist.init_process_group("gloo", init_method=f"file://{tmp_path / 'meet'}", rank=0, world_size=1)
    try:
        for name in DIVIDED:
            run = run_of(moons(), name)
            raw = run.data.load()[0]
            modality = run.data.modality().fit(raw)
            batch = modality.encode(raw)
            found = []
            for divide in (lambda net: net, lambda net: FSDP().wrap(net, torch.device("cpu"))):
                net: Any = divide(build_network(run.network, run.objective, run.seed, modality, batch))
                objective: Any = run.objective
                loss = objective(net, take(batch, torch.arange(8)), Rng(1))
                loss.value.backward()
                slopes = [p.grad for p in net.parameters() if p.grad is not None]
                whole = [getattr(g, "full_tensor", lambda g=g: g)() for g in slopes]
                found.append((float(loss.value.detach()), sum(float(g.square().sum()) for g in whole)))
            assert found[0] == pytest.approx(found[1], rel=1e-5)
            blocks = [block for stack in net.stacks.values() for block in stack]
            assert blocks and all(hasattr(block, "unshard") for block in blocks)
    finally:
        dist.destroy_process_group()


def test_a_network_conditioned_on_a_state_needs_it() -> None:
    with Rng(0).ambient():
        net = Beside(torch.nn.Identity(), "state")
    with pytest.raises(ValueError, match="another state of that shape"):
        net(torch.zeros(2, 2), torch.zeros(2), {"other": torch.zeros(2, 2)})


def test_a_second_network_needs_a_shape_and_unused_names() -> None:
    with Rng(0).ambient():
        rows = Network(TabularMLP(((1,), (3,)), width=32))
        taken = Network(MLP(2, width=8, depth=1, conditions={"time": {"size": 1}}))
    with pytest.raises(ValueError, match="Identity was to be conditioned on 'state'.*use networks.MLP"):
        conditioned_on_state(Network(torch.nn.Identity()), "state", Rng(0))
    told = conditioned_on_state(rows, "state", Rng(0))
    assert told(torch.zeros(2, 4), torch.zeros(2), {"state": torch.ones(2, 4)}).shape == (2, 4)
    with pytest.raises(ValueError, match="rename that condition"):
        conditioned_on_state(taken, "state", Rng(0), {"time": {"size": 1}})
    assert conditioned_on_state(taken, "velocity", Rng(0)).network.backbone.shape == (4,)


def test_couplings_of_a_whole_data_set_and_of_conditions_by_name(tmp_path: Path) -> None:
    """Remembered gives every datum one noise of an optimal assignment; ConditionalOT finds the only condition."""
    run = run_of(images.digits(), "FlowMatching(coupling=Remembered())")
    work = prepare(run)
    cost = (work.data.x1 - work.data.x0).square().flatten(1).sum(1).mean()
    fresh = (work.data.x1 - Rng(0).normal(work.data.x1)).square().flatten(1).sum(1).mean()
    assert cost < 0.9 * fresh and not train(run, tmp_path / "kept", log=quiet).flow.independent
    train(run_of(images.digits(), "FlowMatching(coupling=ConditionalOT())"), tmp_path / "label", log=quiet)
    again = Distilled(str(tmp_path / "kept"), config.build({"is": "distillations.Reflow", "coupling": "Annealed(0.5)"}))
    again = config.change(again, {"training.steps": 2, "training.batch_size": 8, "method.sampler.steps": 2})
    assert train(again, tmp_path / "reflowed", log=quiet).lineage["made_by"] == "distillations.Reflow"


def test_a_path_that_does_not_end_at_a_symbol_is_refused_by_classify() -> None:
    with pytest.raises(ValueError, match="does not end at a symbol"):
        Classify(Linear())
