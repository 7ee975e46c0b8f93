"""The protocol of a component: every member of the catalogue keeps it."""

import ast
import dataclasses
import importlib
import inspect
from pathlib import Path

import pytest
import torch
from torch import nn

import beeline
from beeline.config import build as config
from beeline.config.catalogue import CATALOGUE, find, makes, member, name_of, settings
from beeline.config.docs import explain
from beeline.config.slots import SLOTS
from beeline.core.errors import BeelineError
from beeline.core.rng import Rng
from beeline.fields.flow import MapNetwork, Network
from beeline.paths.affine import Affine
from beeline.testing import check_component, unchanged_random_state

MEMBERS = [f"{kind}.{name}" for kind, names in CATALOGUE.items() for name in names]
CLASSES = [full for full in MEMBERS if isinstance(member(full), type)]

# what is needed to make one, for members that need settings; as text, so that reading it is tested as well
EXAMPLES = {
    "schedules.Explicit": "Explicit((0.0, 0.3, 1.0))",
    "solvers.RungeKutta": "RungeKutta(3, ((0.5,), (-1.0, 2.0)), (0.125, 0.75, 0.125))",
    "divergences.Hutchinson": "Hutchinson(Rng(3, ('a', 1, 0.5)), probes=2)",
    "divergences.HutchPlusPlus": "HutchPlusPlus(Rng(3, ('a', 1, 0.5)), probes=3)",
    "guidance.Guide": "Guide(Unconditional({'label': 10}), Extrapolate(3.0), window=(0.2, 0.9))",
    "guidance.CFG": "CFG(3, null=10)",
    "guidance.Guides": "Guides((CFG(3.0, null=10), CFG(2.0, null=10, window=(0.5, 1.0))))",
    "controllers.EnergyGuidance": "EnergyGuidance(Near((0.5, 1.0)), strength=2.0)",
    "samplers.Anchored": "Anchored(4, energy=Near((0.5, 1.0)), strength=2.0)",
    "controllers.TFG": "TFG(Near((0.5, 1.0)), rho_shape=Rising(), kept=VelocityKept(), estimate=SeveralSteps(2))",
    "controllers.PeriodicOptimisation": "PeriodicOptimisation(Near((0.5, 1.0)), every=2)",
    "energies.MeanColour": "MeanColour((1.0, 0.5, 0.0))",
    "energies.FeatureDistance": "FeatureDistance(RandomFeatures(4), (0.5, 1.0))",
    "energies.TextSimilarity": "TextSimilarity('a red boat')",
    "energies.Motif": "Motif('RGD')",
    "energies.ColumnSum": "ColumnSum({'age': 1.0, 'tenure': -1.0}, 30.0)",
    "energies.ColumnRange": "ColumnRange('age', low=-1.0)",
    "energies.Decoded": "Decoded(MeanColour((1.0, 0.5, 0.0)))",
    "energies.Sum": "energies.Sum((Near((0.5, 1.0)), Near((0.0, 1.0))), weights=(1.0, -0.5))",
    "energies.Scheduled": "Scheduled(Near((0.5, 1.0)), 2.0, window=(0.2, 1.0))",
    "energies.Smoothed": "Smoothed(Near((0.5, 1.0)), 0.2)",
    "energies.Near": "Near((0.5, 1.0), deviation=0.2)",
    "energies.Measured": "Measured(Mask((1, 0)), (0.5, 0.0), noise=0.1)",
    "controllers.MomentMatching": "MomentMatching(Measured(Mask((1, 0)), (0.5, 0.0), noise=0.1), iterations=2)",
    "controllers.PseudoInverse": "PseudoInverse(Measured(Mask((1, 0)), (0.5, 0.0), noise=0.1))",
    "controllers.Pull": "Pull(Measured(Mask((1, 0)), (0.5, 0.0), noise=0.1), deviation=0.5)",
    "controllers.Replacement": "Replacement(Measured(Mask((1, 0)), (0.5, 0.0), noise=0.1))",
    "controllers.Towards": "Towards((0.5, 1.0), 0.9, window=(0.0, 0.25))",
    "controllers.Transported": "Transported((0.5, 1.0), 0.2, balanced=True)",
    "edits.Within": "Within(FlowEdit(), GivenRegion((1.0, 0.0)))",
    "edits.Layered": "Layered(GivenRegion((1.0,)), (Move(right=2), Resize(2.0)), start=0.6)",
    "edits.LayeredScene": "LayeredScene(GivenRegion((1.0,)), (Clone(down=2), Flip()), views=1)",
    "edits.Pan": "Pan(right=2, fill=MaskedKeys())",
    "edit_regions.GivenRegion": "GivenRegion((1.0, 0.0))",
    "edit_regions.AttentionRegion": "AttentionRegion((1, 2), threshold=Soft())",
    "edit_regions.Complement": "Complement(Difference(threshold=LargestShare(0.5)))",
    "edit_regions.Union": "edit_regions.Union((GivenRegion((1.0, 0.0)), Difference()))",
    "edit_regions.Softened": "edit_regions.Softened(Difference(), 2.0)",
    "operators.Magnitudes": "Magnitudes(Matrix(((1.0, 2.0),)))",
    "operators.Mask": "Mask((1, 0))",
    "operators.Columns": "Columns((0, 2))",
    "operators.Beginning": "Beginning(3)",
    "operators.Matrix": "Matrix(((1.0, 2.0),))",
    "operators.Projections": "Projections(3, (1, 4, 4))",
    "energies.Chebyshev": "Chebyshev((Near((0.5, 1.0)), Near((0.0, 0.0))), (1.0, 2.0))",
    "samplers.BestOf": "BestOf(4, energy=Near((0.5, 1.0)), candidates=3)",
    "samplers.ParetoBest": "ParetoBest(4, energies=(Near((0.5, 1.0)), Near((0.0, 0.0))))",
    "samplers.GreedySearch": "GreedySearch(4, energy=Near((0.5, 1.0)), until=0.5)",
    "samplers.PathIntegral": "PathIntegral(4, energy=Near((0.5, 1.0)), temperature=0.1)",
    "samplers.RolloverBudget": "RolloverBudget(4, energy=Near((0.5, 1.0)), budget=40)",
    "samplers.Particles": "Particles(4, energy=Near((0.5, 1.0)), candidates=16)",
    "samplers.FeynmanKac": "FeynmanKac(4, powers=(2.0, -1.0), references=(Unconditional(10),))",
    "guidance.SkippedWeak": "SkippedWeak(CFG(3.0, null=10), (0.5, 0.75), ((1, -1, 1),))",
    "guidance.MergedTokens": "MergedTokens(CFG(3.0, null=10), 0.25)",
    "guidance.GivenFrames": "GivenFrames((0,), CFG(3.0, null=10))",
    "guidance.Substituted": "Substituted(SparseAttention(scale=2.0), CFG(3.0, null=10))",
    "references.Unconditional": "Unconditional(10)",
    "rules.Extrapolate": "Extrapolate(2)",
    "drops.Drop": "Drop(0.1, null={'label': [3.0]})",
    "random.Rng": "Rng(0)",
    "networks.MLP": "MLP(2, width=8, depth=1, conditions={'label': {'classes': 3}})",
    "networks.Autoencoder": "Autoencoder((1, 8, 8), width=8, multipliers=(1, 2), latent=2)",
    "networks.UNet": "UNet((1, 8, 8), width=8)",
    "networks.Adapted": "Adapted(MLP(2, width=8, depth=1), LoRA(2))",
    "networks.Branched": "Branched(DiT((1, 8, 8), width=16, depth=1, heads=2), Bottleneck(2), Window(0.0, 0.5))",
    "networks.WithControl": "WithControl(DiT((1, 8, 8), width=16, depth=1, heads=2), T2IAdapter(8), 1, 'edges')",
    "amounts.PerLayer": "PerLayer({'qkv': 0.5, 'mlp.0': 0.0}, others=1.0)",
    "networks.SharedBlocks": "SharedBlocks(DiT((1, 4, 4), width=8, depth=2, heads=2), groups=1, rank=1)",
    "networks.FewerConditionTokens": "FewerConditionTokens(MMDiT((1, 4, 4), width=8, depth=1, heads=2, "
    "conditions={'text': {'length': 4, 'size': 2}}), 0.5)",
    "networks.Shortened": "Shortened(MLP(2, width=8, depth=2), ['block.0'])",
    "networks.Compressed": "Compressed(MLP(2, width=8, depth=1), [Integers(4)], [['out']])",
    "networks.MMDiT": "MMDiT((1, 8, 8), width=16, depth=1, heads=2, conditions={'label': {'classes': 3}}, single=1)",
    "networks.UViT": "UViT((1, 8, 8), width=16, depth=2, heads=2, mixer=LinearAttention(), feed=Experts(2))",
    "networks.DiT": "DiT((1, 8, 8), width=16, depth=1, heads=2)",
    "networks.FiT": "FiT((1, 8, 8), width=16, depth=1, heads=2)",
    "networks.SiTS": "SiTS((1, 8, 8), width=16, depth=1, heads=2)",
    "networks.SiTB": "SiTB((1, 8, 8), width=16, depth=1, heads=2)",
    "networks.SiTL": "SiTL((1, 8, 8), width=16, depth=1, heads=2)",
    "networks.SiTXL": "SiTXL((1, 8, 8), width=16, depth=1, heads=2)",
    "networks.PixArt": "PixArt((1, 8, 8), width=16, depth=1, heads=2, conditions={'label': {'classes': 3}})",
    "networks.SD3": "SD3((1, 8, 8), width=16, depth=2, heads=2, conditions={'label': {'classes': 3}}, dual=1)",
    "networks.Flux": "Flux((1, 8, 8), width=16, depth=1, heads=2, conditions={'label': {'classes': 3}}, single=1)",
    "networks.DiffusersDiT": "DiffusersDiT((1, 8, 8), width=16, depth=1, heads=2)",
    "networks.CausalFlow": "CausalFlow((1, 4, 4), width=16, blocks=2, depth=1, heads=2, plan=[[2, 3, 0], [1, 0, 1]])",
    "networks.DenseHead": "DenseHead(8, 2)",
    "networks.TabularMLP": "TabularMLP(((1,), (3,)), width=32)",
    "networks.TabularTransformer": "TabularTransformer(((1,), (3,)), width=32, heads=2)",
    "networks.Network": "Network(MLP(2, width=8, depth=1), path=Cosine(), prediction=Data(0.01))",
    "networks.MapNetwork": "MapNetwork(MLP(2, width=8, depth=1, span=true))",
    "networks.Ends": "Ends(Network(MLP(2, width=8, depth=1)), couplings.Independent())",
    "networks.Converted": "Converted(Network(MLP(2, width=8, depth=1)), Linear(), paths.Cosine())",
    "networks.Tangent": "Tangent(Network(MLP(2, width=8, depth=1)), Sphere())",
    "networks.PosteriorNetwork": "PosteriorNetwork(Network(MLP(2, width=8, depth=1)), Dirichlet())",
    "networks.Potential": "Potential(Network(MLP(2, width=8, depth=1)), PowerCost(3.0))",
    "networks.SecondOrder": "SecondOrder(Network(MLP(2, width=8, depth=1)), Network(MLP(2, width=8, depth=1)))",
    "networks.Helped": "Helped(Network(MLP(2, width=8, depth=1)), Network(MLP(2, width=8, depth=1)))",
    "networks.BlockAdapters": "BlockAdapters(Network(MLP(2, width=8, depth=1)), [8], width=4)",
    "networks.SideNetwork": "SideNetwork(Network(MLP(2, width=8, depth=1)), "
    "Network(MLP(2, width=4, depth=1, conditions={'beta': {'size': 1}})))",
    "networks.DepthReader": "DepthReader(MLP(2, width=8, depth=1), 8, rank=4)",
    "networks.Bridged": "Bridged(MLP(2, width=8, depth=2), MLP(2, width=4, depth=1), [8, 8], [4])",
    "networks.Equilibrium": "Equilibrium(2, width=8, conditions={'label': {'classes': 3}})",
    "networks.Gate": "Gate([2], 2, width=8)",
    "networks.Specialists": "Specialists([Network(MLP(2, width=8, depth=1)), Network(MLP(2, width=8, depth=1))], "
    "Gate([2], 2, width=8))",
    "networks.HeadBank": "HeadBank(Network(MLP(2, width=8, depth=1)), 4)",
    "networks.FromTrigFlow": "FromTrigFlow(Network(MLP(2, width=8, depth=1)), 0.5)",
    "networks.ToTrigFlow": "ToTrigFlow(Network(MLP(2, width=8, depth=1)), 0.5)",
    "networks.DecoupledTimes": "DecoupledTimes(MLP(2, width=8, depth=2), first=1)",
    "networks.InnerLoop": "InnerLoop(Network(MLP(2, width=8, depth=2)), 1)",
    "networks.Deep": "Deep(Network(MLP(2, width=8, depth=1)), ['backbone.block.0'], "
    "[Head(8, [2])], [Head(8, [2])], [Head(8, [8])])",
    "networks.SubNetwork": "SubNetwork(Network(DiT((1, 8, 8), width=16, depth=2, heads=2)), width=0.5, visits=[0])",
    "networks.FlexiPatches": "FlexiPatches(DiT((1, 8, 8), width=16, depth=1, heads=2), 4, 0.6)",
    "networks.FreeU": "FreeU(UNet((1, 8, 8), width=8), [1.1], [0.8])",
    "networks.SkipTuned": "SkipTuned(Network(UViT((1, 8, 8), width=16, depth=2, heads=2)), 0.8)",
    "networks.Inherited": "Inherited(Network(DiT((1, 8, 8), width=16, depth=2, heads=2)), ['block.1'], 3)",
    "networks.TimedExit": "TimedExit(Deep(Network(MLP(2, width=8, depth=1)), ['backbone.block.0'], "
    "[Head(8, [2])], [Head(8, [2])], [Head(8, [8])]), [[0.0, 0], [0.5, -1]])",
    "networks.EarlyExit": "EarlyExit(Deep(Network(MLP(2, width=8, depth=1)), ['backbone.block.0'], "
    "[Head(8, [2])], [Head(8, [2])], [Head(8, [8])]))",
    "networks.SampleExit": "SampleExit(Deep(Network(MLP(2, width=8, depth=1)), ['backbone.block.0'], "
    "[Head(8, [2])], [Head(8, [2])], [Head(8, [8])]), 0.1)",
    "networks.TimedHead": "TimedHead(8, [2])",
    "networks.Refiner": "Refiner(8, [2])",
    "networks.PatchHead": "PatchHead(8, [1, 4, 4], 2)",
    "networks.Head": "Head(4, [2])",
    "networks.EditingField": "EditingField(Network(MLP(shape=(6,), width=8, depth=1)), 'source')",
    "networks.ViewField": "ViewField(Network(MLP(shape=(6,), width=8, depth=1)), 'times')",
    "objectives.Instructed": "Instructed((Inverted(), Shifted(right=2)), blank=0.1)",
    "pair_operations.Pasted": "Pasted((1.0, 0.0))",
    "edits.TrainedEditor": "TrainedEditor(1)",
    "edits.ResampledViews": "ResampledViews((0, 2))",
    "networks.FromStart": "FromStart(Network(MLP(shape=(4,), width=8, depth=1)), 'start')",
    "networks.Beside": "Beside(Network(MLP(shape=(4,), width=8, depth=1)), 'state')",
    "networks.RandomVelocity": "RandomVelocity(Beside(Network(MLP(shape=(4,), width=8, depth=1)), 'state'), Rng(1), 3)",
    "objectives.Aligned": "Aligned(FlowMatching(), 'field.backbone.block.0', HubVision('owner/name'))",
    "references.WeakBundle": "WeakBundle('runs/digits/averages/1-power')",
    "encoders.OfBundle": "OfBundle('runs/digits', 'backbone.block.1')",
    "encoders.HubVision": "HubVision('owner/name', skip=5)",
    "features.Encoded": "Encoded(RandomFeatures(8))",
    "features.EncodedPictures": "EncodedPictures(RandomFeatures(8), modality=Image((1, 8, 8)))",
    "data.SequenceFile": "SequenceFile('peptides.txt', held_out=0.2)",
    "objectives.Separable": "Separable(FlowMatching(), 'field.backbone.block.0')",
    "objectives.Dispersed": "Dispersed(FlowMatching(), 'backbone.block.0')",
    "schedules.FluxShifted": "FluxShifted(256)",
    "rotaries.PositionInterpolation": "PositionInterpolation(2.0)",
    "rotaries.NTKAware": "NTKAware(2.0)",
    "rotaries.YaRN": "YaRN(2.0, trained=64)",
    "caches.MagCache": "MagCache((1.0, 1.1, 0.9), 8)",
    "rules.NormRestored": "NormRestored(2.0, norms.PerRow())",
    "rules.OverTime": "OverTime(2.0, scale_shapes.Rising())",
    "rules.PerFrequency": "PerFrequency((1.0, 3.0))",
    "references.NoisedFrames": "NoisedFrames((0, 1), level=0.2)",
    "references.Without": "Without(('text',), Unconditional({'text': 10}))",
    "references.OtherCondition": "OtherCondition({'label': 3})",
    "guidance.AnchoredNull": "AnchoredNull(3.0)",
    "guidance.AdaptiveWeak": "AdaptiveWeak(CFG(3.0, null=10))",
    "guidance.Nested": "Nested((Unconditional(), references.Without(('text',))), (1.5, 7.5))",
    "guidance.Merged": "Merged((references.OtherCondition({'label': 3}),), ((1.0, 0.0),))",
    "guidance.Conjunction": "Conjunction((references.OtherCondition({'label': 3}),), (2.0, 1.0), Unconditional())",
    "guidance.Disjunction": "Disjunction((references.OtherCondition({'label': 3}),), (1.0, 1.0))",
    "guidance.SaliencyFusion": "SaliencyFusion(CFG(3.0, null=10), references.WeakBundle('runs/digits'))",
    "guidance.Regional": "Regional(3.0, regions.GivenRegions(3))",
    "rules.ZeroStar": "ZeroStar(2.0)",
    "rules.Projected": "Projected(2.0)",
    "rules.Rescaled": "Rescaled(Extrapolate(2.0))",
    "schedules.DiffusionSchedule": "DiffusionSchedule('DDIMScheduler', {'beta_schedule': 'scaled_linear'})",
    "schedules.CheckpointSchedule": "CheckpointSchedule('sd3', 'FlowMatchEulerDiscreteScheduler', {'shift': 3.0})",
    "schedules.ResolutionShifted": "ResolutionShifted(262144)",
    "schedules.Quantiles": "Quantiles(LogitNormal(0.5))",
    "solvers.EulerMaruyama": "EulerMaruyama(White(Rng(0)), diffusion=Hump(0.5))",
    "solvers.Overshoot": "Overshoot(Brownian(Rng(1)))",
    "solvers.Refresh": "Refresh(White(Rng(0), seeds=(1, 2)))",
    "solvers.Langevin": "Langevin(White(Rng(0)))",
    "solvers.Fitted": "Fitted((0, 1), ((1,),))",
    "solvers.StateWeights": (
        "StateWeights(Fitted((0, 1), ((1,),)), ((0, 0, 0),), ((1, 1, 1),), (((0, 0, 0, 0),),), (((0,), (0,)),))"
    ),
    "noises.White": "White(Rng(0))",
    "noises.Brownian": "noises.Brownian(Rng(0))",
    "tableaus.Embedded": "Embedded(2, ((1.0,), (0.5, 0.5)), (-0.5, 0.0, 0.5), 1)",
    "distillations.FeatureTuned": "FeatureTuned('backbone.block.0')",
    "distillations.Reflow": "Reflow(count=5, reverse=0.25)",
    "modalities.Table": "Table({'age': {'kind': 'number'}})",
    "data.ImageFile": "ImageFile('pictures', resize=16, augment=(Flip(0.25), RandomCrop(2)), "
    "conditions={'boxes': Numbers(4)})",
    "data.ArrayFile": "ArrayFile('a.npz', label='kind')",
    "data.TarShards": "TarShards('shards/{000..099}.tar', resize=64)",
    "data.HubImages": "HubImages('hf:owner/name', image='img')",
    "data.HubStream": "HubStream('hf:owner/name', parts=2)",
    "data.HubArrays": "HubArrays('hf:owner/name')",
    "data.Latents": "Latents('latents')",
    "condition_encoders.HubText": "HubText('hub:owner/name', pooled=true, subfolder='text_encoder_2')",
    "condition_encoders.Numbers": "Numbers(4, length=8, column='boxes')",
    "condition_encoders.Pictures": "condition_encoders.Pictures(side=16, patch=4, channels=3)",
    "condition_encoders.HintPictures": "HintPictures(8, 8, {'edges': 1, 'low': 3})",
    "hints.OfPictures": "OfPictures(Edges(), LatentImage(PatchChannels(2), Image((1, 8, 8)), (4, 4, 4)))",
    "descriptions.Descriptions": "Descriptions({'boxes': Numbers(4, length=8)}, {'boxes': ''})",
    "autoencoders.DiffusersVAE": "DiffusersVAE('hub:owner/name', subfolder='vae')",
    "autoencoders.OfAutoencoder": "OfAutoencoder('runs/autoencoder')",
    "modalities.LatentImage": "LatentImage(PatchChannels(4), Image((3, 8, 8)), (48, 2, 2), (0.5,), (2.0,))",
    "data.ImageBuckets": "ImageBuckets('pictures', side=32, augment=Flip())",
    "data.PointFile": "PointFile('points.csv', label='kind', columns=('x', 'y'))",
    "data.TableFile": "TableFile('people.csv', exclude=('name',), corrections={'age': {'high': 99}})",
    "data.TableStream": "TableStream('people.parquet', first=1000)",
    "data.SamplesOf": "SamplesOf('runs/styled', 500)",
    "data.DistributionData": "DistributionData(TwoMoons(), n=10)",
    "data.PairedDataset": "PairedDataset(Digits(), ImageFile('others', resize=8), aligned=True)",
    "sources.DatasetSource": "DatasetSource(Digits(), Image((1, 8, 8), levels=17))",
    "runs.Run": "Run(Digits(), {'is': 'networks.DiT', 'width': 16}, training=Training(10, lr=OneCycle()))",
    "runs.Distilled": "Distilled('demo/teacher', Reflow())",
    "pair_filters.LowestEnergy": "LowestEnergy(Near((0.5, 1.0)), 0.25)",
    "distributions.Gaussian": "distributions.Gaussian((0.0, 1.0), (1.0, 2.0))",
    "distributions.GaussianMixture": "GaussianMixture(((0.0, 1.0), (2.0, 2.0)), (0.5, 1.0))",
}


def GAME() -> object:  # noqa: N802 - as the entries of IN_CODE
    return member("objectives.ScoreGame")(beeline.Flow(nn.Linear(1, 1)))


# parts that hold what no file can hold: a function, a network, a data set
IN_CODE = {
    "paths.Affine": lambda: Affine(lambda t: t**2, lambda t: 1 - t),
    "references.Weak": lambda: beeline.guidance.Weak(nn.Linear(1, 1)),
    "guidance.ConfusedClass": lambda: beeline.guidance.ConfusedClass(nn.Linear(1, 1)),
    "energies.ScoreDistillation": lambda: member("energies.ScoreDistillation")(beeline.Flow(nn.Linear(1, 1))),
    "energies.Label": lambda: beeline.steering.Label(nn.Linear(1, 2)),
    "energies.PerceptualDistance": lambda: beeline.steering.PerceptualDistance(nn.Linear(1, 1), ("0",), (0.5,)),
    "guidance.StraightThrough": lambda: beeline.guidance.StraightThrough(nn.Linear(1, 1)),
    "sources.Empirical": lambda: beeline.sources.Empirical(torch.zeros(20_000, 1)),
    "couplings.Remembered": lambda: member("couplings.Remembered")(torch.zeros(20_000, 1)),
    "solvers.LatentSDE": lambda: member("solvers.LatentSDE")(denoiser=nn.Linear(1, 1)),
    "couplings.VelocityOT": lambda: member("couplings.VelocityOT")(nn.Linear(1, 1)),
    "objectives.Contrastive": lambda: member("objectives.Contrastive")(reference=nn.Linear(1, 1)),
    "objectives.SelfPerceptual": lambda: member("objectives.SelfPerceptual")(
        beeline.objectives.FlowMatching(), nn.Linear(1, 1), ""
    ),
    "objectives.GuidanceDistilled": lambda: member("objectives.GuidanceDistilled")(beeline.Flow(nn.Linear(1, 1))),
    "samplers.RefinedNoise": lambda: member("samplers.RefinedNoise")(refiner=nn.Linear(1, 1)),
    "objectives.Windowed": lambda: member("objectives.Windowed")(beeline.Flow(nn.Linear(1, 1))),
    "objectives.DecodingMatching": lambda: member("objectives.DecodingMatching")(beeline.Flow(nn.Linear(1, 1))),
    "velocities.OfTeacher": lambda: member("velocities.OfTeacher")(beeline.Flow(nn.Linear(1, 1))),
    "objectives.ScoreGame": lambda: member("objectives.ScoreGame")(beeline.Flow(nn.Linear(1, 1))),
    "objectives.SampleDistance": lambda: member("objectives.SampleDistance")(beeline.Flow(nn.Linear(1, 1))),
    "objectives.WithGame": lambda: member("objectives.WithGame")(beeline.objectives.FlowMatching(), GAME()),
    "objectives.SplitGame": lambda: member("objectives.SplitGame")(GAME(), GAME()),
    "objectives.MarginalTransport": lambda: member("objectives.MarginalTransport")(beeline.Flow(nn.Linear(1, 1))),
    "identities.Truncated": lambda: member("identities.Truncated")(nn.Linear(1, 1)),
    "objectives.TwoHops": lambda: member("objectives.TwoHops")(beeline.Flow(nn.Linear(1, 1))),
    "distances.Perceptual": lambda: member("distances.Perceptual")(nn.Linear(1, 1)),
    "features.Module": lambda: member("features.Module")(nn.Linear(1, 1), "mine"),
}

# frozen classes with a source that no setting takes
UNLISTED = {
    "beeline.data.distributions.distribution:ExactField": "an exact velocity, made by a distribution's field(path)",
    "beeline.data.tables.codec.codes:Quantile": "what a table learned of one column; stored by the table",
    "beeline.data.tables.codec.codes:Standard": "what a table learned of one column; stored by the table",
    "beeline.data.tables.codec.codes:Code": "what a table learned of one column; stored by the table",
    "beeline.data.tables.metrics.scores": "metrics of tables, with the rows they compare; given by Table.metrics()",
    "beeline.data.tables.metrics.privacy": "metrics of tables that need held-out rows",
    "beeline.data.tables.table:TableMicrobatches": "how the engine reads a table",
    "beeline.data.tables.files:StreamMicrobatches": "how the engine reads a table larger than memory",
    "beeline.sampling.planner:Planner": "holds a flow and a network",
    "beeline.sampling.cascade": "hold flows, or stand for a Sampler in a cascade",
    "beeline.data.showers:ShowerCodec": "what was learned of one set of showers",
    "beeline.networks.compressing.removal.slimming:Slimmed": "a network while Slimming trains it",
    "beeline.distillation.personal.responses:Responses": "an objective on the samples that Unlearning draws",
    "beeline.distillation.personal.responses:Taught": "an objective on the samples that Continued draws",
    "beeline.distillation.personal.responses:Kept": "an objective on the samples that Adaptation draws",
    "beeline.training.optim.evolving:Evolution": "an argument of evolved, which trains without gradients",
    "beeline.couplings.watermark:TreeRing": "holds a secret, which no file is to keep",
    "beeline.training.early_stopping:EarlyStopping": "an argument of fit_patiently",
    "beeline.distillation.fit_blocks:BlockSearch": "an argument of the search for skipped blocks",
    "beeline.distillation.pairs:AnnealedPairs": "holds the pairs it feeds",
    "beeline.training.feed.microbatches:InMemory": "how the engine reads a data set",
    "beeline.training.feed.microbatches:FromDistribution": "how the engine reads a distribution",
    "beeline.evaluation.memorisation:Memorisation": "holds the data that samples are compared with",
    "beeline.evaluation.statistics:FrechetToStatistics": "holds the statistics that samples are compared with",
    "beeline.evaluation.heldout:EvenTimes": "the fixed times of the held-out loss",
    "beeline.evaluation.heldout:MeanField": "a baseline of the held-out loss",
    "beeline.evaluation.heldout:ExactPosterior": "a baseline of the held-out loss",
    "beeline.evaluation.heldout:HeldOut": "holds the data it looks at",
    "beeline.evaluation.evaluate:Extras": "arguments of evaluate, with the samplers of the moment",
    "beeline.evaluation.trajectory:Straightness": "a result",
    "beeline.evaluation.trajectory:Likelihood": "arguments of evaluate",
}
UNDOCUMENTED = {"recipes", "runs"}  # compositions of documented parts


def example(full: str) -> object:
    text = EXAMPLES.get(full, full)
    with Rng(0).ambient():
        return config.parse(text if "." in text.partition("(")[0] else f"{full.partition('.')[0]}.{text}")


@pytest.mark.parametrize("full", MEMBERS)
def test_round_trip(full: str) -> None:
    if full in IN_CODE:
        part = IN_CODE[full]()
        with pytest.raises(BeelineError, match="keep"):
            config.describe(part)
        return
    with unchanged_random_state():
        part = example(full)
    check_component(part)
    if isinstance(member(full), type):  # a maker gives a part of another name
        assert config.describe(part)["is"] == full


@pytest.mark.parametrize("full", MEMBERS)
def test_the_description_is_plain(full: str) -> None:
    import json

    import yaml

    if full in IN_CODE:
        return
    data = config.describe(example(full))
    assert json.loads(json.dumps(data)) == data
    assert yaml.safe_load(yaml.safe_dump(data)) == data


@pytest.mark.parametrize("full", CLASSES)
def test_frozen(full: str) -> None:
    kind = member(full)
    if issubclass(kind, nn.Module):
        assert kind in (Network, MapNetwork) or callable(kind.describe)
        return
    assert dataclasses.is_dataclass(kind) and kind.__dataclass_params__.frozen


@pytest.mark.parametrize("full", [full for full in MEMBERS if full.partition(".")[0] not in UNDOCUMENTED])
def test_documented(full: str) -> None:
    page = explain(*full.split("."))
    assert page.sentence.endswith("."), "one sentence first"
    assert page.source == "" or page.source.startswith("Source:"), "where it comes from"
    assert page.example.startswith(">>>"), "one call"
    if isinstance(member(full), type):
        assert page.formula, "the formula, between sentence and assumptions"


@pytest.mark.parametrize("full", MEMBERS)
def test_an_entry_names_its_own_place(full: str) -> None:
    kind, _, name = full.partition(".")
    module, _, attribute = CATALOGUE[kind][name].removesuffix("()").partition(":")
    assert inspect.getmodule(getattr(importlib.import_module(module), attribute, None)) is not None or name.isupper()
    if not name.isupper():
        assert name_of(member(full)) == full


def test_names_in_a_kind_differ_by_more_than_case() -> None:
    for kind, names in CATALOGUE.items():
        for name in names:
            assert find(f"{kind}.{name.upper()}") == f"{kind}.{name}"


def test_every_kind_of_a_protocol_is_spelt_as_in_the_catalogue() -> None:
    coming = {"controllers", "edits"}
    assert set(SLOTS.values()) <= set(CATALOGUE) | coming


def test_settings_that_hold_components_know_their_kind() -> None:
    known = settings(member("objectives.FlowMatching"))
    for name, kind in {"path": "paths", "times": "times", "weight": "weights", "drop": "drops"}.items():
        assert kind in known[name].kinds


def test_everything_that_could_be_chosen_is_listed() -> None:
    missing = []
    for path in sorted(Path(beeline.__file__).parent.rglob("*.py")):
        parts = path.relative_to(Path(beeline.__file__).parent.parent).with_suffix("").parts
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            place = f"{'.'.join(parts)}:{getattr(node, 'name', '')}"
            if not isinstance(node, ast.ClassDef) or not (
                any("dataclass" in ast.unparse(d) for d in node.decorator_list)
                or any(isinstance(part, ast.FunctionDef) and part.name == "describe" for part in node.body)
            ):
                continue
            if "\nSource: " in inspect.cleandoc(ast.get_docstring(node) or ""):
                listed = {p.removesuffix("()") for names in CATALOGUE.values() for p in names.values()}
                known = listed | set(UNLISTED)
                if place not in known and place.partition(":")[0] not in known and not node.name.startswith("_"):
                    missing.append(place)
    assert not missing, "list these in beeline/config/catalogue.py or entries.py"


def test_constants_have_no_settings() -> None:
    assert not makes("solvers.HEUN") and makes("solvers.RungeKutta") and makes("guidance.CFG")
    assert not makes("distances.squared") and makes("distances.Huber")


def test_pages_hold_the_comments_of_the_settings() -> None:
    rows = {row[0]: row for row in explain("times", "logit-normal").settings}
    assert rows["std"] == ("std", "float", "1.0", "of the logit, above 0")
    assert dict(r[0::3] for r in explain("networks", "MLP").settings)["depth"] == "blocks"
    assert ("b", "tuple[float, ...]", "(0.5, 0.5)", "") in explain("solvers", "HEUN").settings
    assert explain("guidance", "CFG").settings[0][:3] == ("scale", "float", "")


@pytest.mark.parametrize(
    ("kind", "name", "message"),
    [
        ("tmes", "Uniform", "did you mean 'times'"),
        ("times", "LogNormal", "did you mean 'LogitNormal'"),
    ],
)
def test_unknown_pages(kind: str, name: str, message: str) -> None:
    with pytest.raises(BeelineError, match=message):
        explain(kind, name)
