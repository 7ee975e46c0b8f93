"""Entries of the catalogue: those of guidance and steering, and those of flow maps."""

from __future__ import annotations


def of(module: str, *names: str) -> dict[str, str]:
    """Entries of components of one module of the package, by name."""
    return {name.removesuffix("()"): f"beeline.{module}:{name}" for name in names}


GUIDANCE: dict[str, dict[str, str]] = {
    "guidance": of("sampling.guidance.guide", "Plain", "Guide", "Guides", "CFG()")
    | of("sampling.guidance.temperature", "Temperature")
    | of("sampling.guidance.confused", "ConfusedClass")
    | of("sampling.guidance.straight_through", "StraightThrough")
    | of("sampling.guidance.frames", "GivenFrames")
    | of("sampling.guidance.projected", "ProjectedFlow")
    | of("sampling.guidance.skipping", "SkippedWeak")
    | of("sampling.guidance.block_skips", "SkippedBlocks")
    | of("sampling.guidance.merging", "MergedTokens")
    | of("sampling.guidance.references.substituted", "Substituted")
    | of("sampling.guidance.stepwise.corrected", "RectifiedCFGPlusPlus")
    | of("sampling.guidance.stepwise.anchored", "AnchoredNull")
    | of("sampling.guidance.adaptive", "AdaptiveWeak")
    | of("sampling.guidance.composition.linear", "Nested", "Conjunction")
    | of("sampling.guidance.composition.mixture", "Disjunction")
    | of("sampling.guidance.composition.fusion", "SaliencyFusion")
    | of("sampling.guidance.composition.merged", "Merged")
    | of("sampling.guidance.composition.spatial", "Regional"),
    "regions": of("sampling.guidance.composition.spatial", "GivenRegions", "AttentionRegions"),
    "references": of("sampling.guidance.guide", "Unconditional", "Weak")
    | of("runs.weak_bundle", "WeakBundle")
    | of("sampling.guidance.references.negative", "Negative")
    | of("sampling.guidance.references.conditions", "Without", "OtherCondition")
    | of("sampling.guidance.references.perturbed_time", "PerturbedTime")
    | of("sampling.guidance.references.skipped_layers", "SkippedLayers")
    | of("sampling.guidance.references.random_condition", "RandomCondition")
    | of("sampling.guidance.references.history", "History")
    | of("sampling.guidance.references.noised_frames", "NoisedFrames")
    | of("sampling.guidance.references.attention", "PerturbedAttention", "SmoothedAttention", "SparseAttention"),
    "rules": of("sampling.guidance.guide", "Extrapolate")
    | of("sampling.guidance.rules.steps", "CFGPlusPlus")
    | of("sampling.guidance.rules.frequencies", "PerFrequency")
    | of("sampling.guidance.rules.norms", "NormRestored")
    | of("sampling.guidance.rules.scales", "OverTime")
    | of("sampling.guidance.rules.projections", "ZeroStar", "Projected", "Rescaled"),
    "scale_shapes": of(
        "sampling.guidance.rules.scales", "Rising", "Falling", "RaisedCosine", "Sine", "PowerCosine", "Tent"
    ),
    "norms": of("sampling.guidance.rules.norms", "PerToken", "PerRow", "PerChannel"),
    "controllers": of("sampling.steering.descending", "EnergyGuidance")
    | of("sampling.steering.inverse.moments", "MomentMatching")
    | of("sampling.steering.inverse.pulls", "PseudoInverse", "Pull", "Replacement")
    | of("sampling.steering.gradients.training_free", "TFG")
    | of("sampling.steering.gradients.optimised", "PeriodicOptimisation")
    | of("sampling.editing.controlled.towards", "Towards", "Transported"),
    "estimates": of("sampling.steering.gradients.estimates", "OneStep", "SeveralSteps"),
    "placements": of("sampling.steering.gradients.placements", "NoiseKept", "StateKept", "VelocityKept"),
    "energies": of("sampling.steering.energies.squared", "Near")
    | of("sampling.steering.energies.chebyshev", "Chebyshev")
    | of("sampling.steering.energies.combined", "Sum", "Scheduled", "Smoothed")
    | of("sampling.steering.energies.labels", "Label")
    | of("sampling.steering.energies.pictures", "MeanColour", "FeatureDistance", "PerceptualDistance")
    | of("sampling.steering.energies.text", "TextSimilarity")
    | of("sampling.steering.energies.distilled", "ScoreDistillation")
    | of("data.energies.symbols", "Motif")
    | of("data.energies.tables", "ColumnSum", "ColumnRange")
    | of("data.energies.latents", "Decoded")
    | of("sampling.steering.energies.measured", "Measured"),
    "operators": of("sampling.steering.operators.operator", "Identity", "Magnitudes")
    | of("sampling.steering.operators.masks", "Mask", "Columns", "Beginning")
    | of("sampling.steering.operators.axes", "BlockMean", "GaussianBlur", "MotionBlur")
    | of("sampling.steering.operators.channels", "Grey")
    | of("sampling.steering.operators.projections", "Matrix", "Projections"),
}
"""How a trained flow is guided and steered."""

EDITS: dict[str, dict[str, str]] = {
    "edits": of("sampling.editing.resampled", "InvertAndSample", "SDEdit")
    | of("sampling.editing.flow_edit", "DeltaVelocity", "FlowEdit")
    | of("sampling.editing.controlled.edits", "RFInversion", "TransportGuided")
    | of("sampling.editing.posterior", "Personalised", "PostEdit")
    | of("sampling.editing.attention.shared", "SharedValues")
    | of("sampling.editing.attention.paired", "KeyValueEnriched", "ReferenceAttention")
    | of("sampling.editing.attention.added", "AddIt")
    | of("sampling.editing.attention.reflex", "ReFlex")
    | of("sampling.editing.attention.flux_space", "FluxSpace")
    | of("sampling.editing.attention.adapters", "MaskedAdapters")
    | of("sampling.editing.attention.sequences", "Emphasised", "SharedMaps", "ShiftedMaps")
    | of("sampling.editing.keeping", "Within")
    | of("sampling.editing.inpaint", "Inpaint")
    | of("sampling.editing.layers.layered", "Layered", "Pan")
    | of("sampling.editing.layers.masked_keys", "MaskedKeys")
    | of("sampling.editing.layers.scene", "LayeredScene")
    | of("sampling.editing.trained", "TrainedEditor", "ResampledViews"),
    "inversions": of("sampling.editing.inversions", "Backwards", "Noised", "NoisedThenBackwards")
    | of("sampling.editing.controlled.edits", "Controlled"),
    "edit_regions": of("sampling.editing.regions", "GivenRegion")
    | of("sampling.editing.masks.difference", "Difference")
    | of("sampling.editing.masks.attention", "AttentionRegion")
    | of("sampling.editing.masks.combined", "Complement", "Union", "Softened"),
    "thresholds": of("sampling.editing.masks.thresholds", "Otsu", "LargestShare", "Soft"),
    "pair_operations": of("objectives.editing.pairs", "Inverted", "Shifted", "Turned", "Mirrored", "Pasted"),
    "layer_operations": of("sampling.editing.layers.operations", "Move", "Clone", "Resize", "Flip", "Remove"),
}
"""How data are changed."""

ENCODED: dict[str, dict[str, str]] = {
    "autoencoders": of("data.latents.autoencoders", "PatchChannels", "DiffusersVAE")
    | of("runs.latents.bundled", "OfAutoencoder"),
    "augmentations": of("data.pictures.augmentations", "Flip", "RandomCrop"),
    "condition_encoders": of("data.described.hub_text", "HubText")
    | of("data.described.encoders", "Numbers", "Pictures")
    | of("data.described.hint_pictures", "HintPictures"),
    "descriptions": of("data.described.descriptions", "Descriptions"),
}
"""What images and their conditions pass through before a network."""

TRANSFORMERS: dict[str, dict[str, str]] = {
    "mixers": of("networks.transformer.mixers", "Attention", "LinearAttention", "FlowAttention")
    | of("networks.transformer.mixing.windows", "Multipole", "SlicedAttention", "WindowsWithLatents")
    | of("networks.transformer.mixing.windows", "ChunkCausal", "Causal")
    | of("networks.transformer.mixing.convolutions", "Deformable", "RecConv", "PointConv")
    | of("networks.transformer.mixing.scans", "Selective", "BiRWKV", "RWKV", "RationalSSM"),
    "feeds": of("networks.transformer.feeds", "FeedForward", "SwiGLU", "CauchyFeed")
    | of("networks.transformer.experts", "Experts", "PEER")
    | of("networks.transformer.groups", "Groups", "Duo"),
    "routers": of("networks.transformer.routers", "TopK", "BiasBalanced", "Rectify", "Prototypes", "ReLURouter")
    | of("networks.transformer.routers", "SharedTop")
    | of("networks.transformer.groups", "TopGroups", "Prefix"),
    "positions": of("networks.transformer.positions", "SinCos", "Learned", "Rotary", "NoPositions"),
    "wirings": of("networks.transformer.blocks", "PreNorm", "Peri", "Parallel")
    | of("networks.transformer.reading", "Cross"),
    "modulations": of("networks.transformer.blocks", "AdaLNZero", "ReZero")
    | of("networks.transformer.modulations", "AdaLNSingle", "AdaLNLoRA", "TimeDependent"),
    "plans": of("networks.transformer.plans.plan", "Plain", "Shared")
    | of("networks.transformer.plans.depths", "Depths")
    | of("networks.transformer.plans.spectral", "SpectralShrink")
    | of("networks.transformer.plans.reduction", "Reduce")
    | of("networks.transformer.plans.tape", "Tape")
    | of("networks.transformer.plans.dynamic", "DynamicWidth"),
}
"""The slots of the flow transformer."""

NETWORKS: dict[str, str] = (
    of("networks.mlp", "MLP")
    | of("networks.maps.equilibrium", "Equilibrium")
    | of("networks.unet", "UNet")
    | of("networks.encoding.autoencoder", "Autoencoder")
    | of("networks.dit", "DiT", "MMDiT", "UViT")
    | of("networks.published.presets", "FiT", "SiTS", "SiTB", "SiTL", "SiTXL", "PixArt", "SD3", "Flux")
    | of("networks.hub.dit", "DiffusersDiT")
    | of("networks.causal_flow", "CausalFlow")
    | of("networks.dense", "DenseHead")
    | of("networks.tabular", "TabularMLP", "TabularTransformer")
    | of("networks.transformer.plans.elastic", "SubNetwork")
    | of("networks.transformer.counts.flexi", "FlexiPatches")
    | of("networks.inference.long_skips", "FreeU", "SkipTuned")
    | of("networks.inference.inherited", "Inherited")
    | of("networks.adapters.adapted", "Adapted")
    | of("networks.branches.branched", "Branched")
    | of("networks.controls.with_control", "WithControl")
    | of("networks.compressing.compressed", "Compressed")
    | of("networks.compressing.removal.sharing", "SharedBlocks")
    | of("networks.compressing.removal.conditions", "FewerConditionTokens")
    | of("networks.compressing.removal.blocks", "Shortened")
    | of("fields.flow", "Network", "MapNetwork")
    | of("fields.prediction", "Ends")
    | of("fields.conversion", "Converted")
    | of("fields.trigflow", "FromTrigFlow", "ToTrigFlow")
    | of("spaces.manifold", "Tangent")
    | of("spaces.simplex", "PosteriorNetwork")
    | of("objectives.second_order", "Potential", "SecondOrder", "Helped")
    | of("objectives.deep_supervision.network", "Deep", "EarlyExit", "TimedExit", "SampleExit")
    | of("objectives.deep_supervision.heads", "Refiner", "PatchHead", "TimedHead")
    | of("objectives.heads", "Head", "Beside")
    | of("objectives.coupled", "FromStart")
    | of("objectives.editing.instructed", "EditingField")
    | of("objectives.editing.views", "ViewField")
    | of("objectives.hierarchical", "RandomVelocity")
    | of("distillation.inner_loop", "InnerLoop")
    | of("networks.guided.adapters", "BlockAdapters", "SideNetwork")
    | of("networks.side.reading", "DepthReader")
    | of("networks.side.bridge", "Bridged")
    | of("networks.growing.specialists", "Specialists", "Gate")
    | of("networks.maps.head_bank", "HeadBank")
    | of("networks.maps.decoupled", "DecoupledTimes")
)

SMALLER: dict[str, dict[str, str]] = {
    "deltas": of("networks.adapters.delta", "LoRA")
    | of("networks.adapters.members.low_rank", "Difference", "DoRA", "AdapterBias", "Hydra", "Principal", "Hadamard")
    | of("networks.adapters.members.sparse", "Sparse", "Fourier", "WalshHadamard", "SVFT")
    | of("networks.adapters.members.blocks", "Ether", "Reflections", "MiSS", "PHM")
    | of("networks.adapters.members.chosen", "Gated", "NullSpace")
    | of("networks.adapters.members.mixture", "Mixture")
    | of("networks.adapters.members.peft", "Peft"),
    "merges": of("networks.adapters.merges", "Sum", "Average", "Ties", "Dare", "Orthogonal", "Slerp"),
    "gates": of("networks.adapters.members.mixture", "Constant", "Token", "Task"),
    "amounts": of("networks.adapters.amounts", "PerLayer", "Window"),
    "branches": of("networks.branches.bottlenecks", "Bottleneck", "InputLink")
    | of("networks.branches.frequency", "Frequency")
    | of("networks.branches.dispatch", "Dispatch")
    | of("networks.branches.laplace", "PLaplace"),
    "controls": of("networks.controls.branches", "ControlBranch", "RelaCtrl")
    | of("networks.controls.features", "T2IAdapter", "ControlNeXt")
    | of("networks.controls.tokens", "EasyControl"),
    "hints": of("networks.controls.hints", "Edges", "Silhouette", "Blur", "LowResolution")
    | of("data.latents.hints", "OfPictures"),
    "formats": of("networks.compressing.formats", "Integers", "OffsetIntegers")
    | of(
        "networks.compressing.levels",
        "Levels",
        "PowersOfTwo()",
        "SmallFloats()",
        "NormalFloat4()",
        "BitMoD()",
        "StatsQ()",
    )
    | of("networks.compressing.factors", "Factors", "Kronecker", "Monarch", "Signs", "DenseSparse")
    | of("networks.compressing.around", "Scaled", "Corrected", "Sparse", "IntegerProducts")
    | of("networks.compressing.activations.ranges", "RangedProducts")
    | of("networks.compressing.weights.entropy", "EntropyCoded")
    | of("networks.compressing.torchao", "AOTensor"),
    "roundings": of("networks.compressing.rounding", "Nearest", "OptimalBrain", "SearchedScale", "MeanSize"),
    "column_scales": of("networks.compressing.around", "Salient", "Smooth")
    | of("networks.compressing.weights.trained_scales", "TrainedScales"),
    "input_ranges": of("networks.compressing.activations.ranges", "Largest", "LeastError"),
    "sensitivities": of("networks.compressing.weights.sensitivity", "Measured", "Curvature"),
    "unit_scores": of(
        "networks.compressing.removal.scores", "Fluctuation", "Magnitude", "Taylor", "SecondOrder", "Learned"
    ),
    "block_choices": of("networks.compressing.removal.blocks", "LeastChange", "Greedy", "EvenlySpaced", "Listed"),
    "compressors": of("networks.compressing.quantize", "Quantize", "int8()", "int4()", "GPTQ()", "AWQ()", "SVDQuant()")
    | of("networks.compressing.quantize", "SmoothQuant()", "TimeRanges()", "LowRank()", "SparseGPT()", "TorchAO()")
    | of("networks.compressing.mixed", "MixedBits")
    | of("networks.compressing.prune", "Narrow", "Ordered", "Shallow")
    | of("networks.compressing.removal.sharing", "Share")
    | of("networks.compressing.removal.search", "SubnetworkSearch")
    | of("networks.compressing.removal.conditions", "ReduceConditions")
    | of("networks.compressing.recover", "Recovered"),
}
"""Small changes of networks, and small networks."""

MAPS: dict[str, dict[str, str]] = {
    "spans": of("objectives.maps.spans", "Ordered", "Gapped", "FromStarts", "ToEnd", "FromNoise", "Dyadic"),
    "splits": of("objectives.maps.splits", "Between", "Falling", "SigmoidFalling", "NoiseRatio"),
    "velocities": of("objectives.maps.velocities", "OfPair", "OfTeacher", "OwnDiagonal", "GuidedTarget"),
    "identities": of("objectives.maps.identities", "Eulerian", "Lagrangian", "Semigroup", "Stepped", "Truncated"),
}
"""The parts of an objective of flow maps."""

MAP_OBJECTIVES = (
    of("objectives.maps.matching", "FlowMapMatching")
    | of("objectives.maps.presets", "MeanFlow", "ImprovedMeanFlow", "RectifiedMeanFlow", "AlphaFlow", "SoFlow")
    | of("objectives.maps.presets", "SplitMeanFlow", "Shortcut", "Progressive", "AlignYourFlow")
    | of("objectives.maps.presets", "LagrangianSelfDistillation", "TerminalVelocity")
    | of("objectives.maps.consistency", "Consistency", "ContinuousConsistency", "Bootstrapping")
    | of("objectives.maps.trajectory", "TrajectoryConsistency")
    | of("objectives.maps.moments", "InductiveMoments")
    | of("objectives.maps.transport", "MarginalTransport")
)

MAP_DISTILLATIONS = (
    of("distillation.maps.flow_maps", "FlowMapDistillation")
    | of("distillation.maps.presets", "MeanFlow", "ImprovedMeanFlow", "AlphaFlow", "SoFlow", "SplitMeanFlow")
    | of("distillation.maps.presets", "Shortcut", "Progressive", "AlignYourFlow", "AlignYourFlowLagrangian")
    | of("distillation.maps.presets", "LagrangianSelfDistillation", "TerminalVelocity", "Bootstrapping")
    | of("distillation.maps.consistency", "Consistency", "ContinuousConsistency", "TruncatedConsistency", "TraFlow")
    | of("distillation.maps.others", "RectifiedMeanFlow", "DecoupledMeanFlow", "InductiveMomentMatching")
    | of("distillation.maps.others", "MarginalDataTransport")
)
GAMES: dict[str, dict[str, str]] = {
    "generations": of(
        "objectives.games.generation", "OneJump", "FromNoisedData", "BackwardSimulation", "Phases", "MapRollout"
    )
    | of("objectives.games.generation", "CausalRollout"),
    "noisings": of("objectives.games.generation", "Fresh", "SharedTimes"),
    "student_terms": of("objectives.games.terms", "ScoreDifference", "ScoreIdentity", "ScoreImplicit", "Fisher")
    | of("objectives.games.terms", "GuidanceAugmentation", "TermSum"),
    "f_divergences": of("objectives.games.divergences", "ReverseKL", "ForwardKL", "JensenShannon", "SoftenedReverseKL")
    | of("objectives.games.divergences", "SquaredHellinger", "Jeffreys", "Neyman"),
    "score_weights": of("objectives.games.terms", "Normalised", "NoiseUnits", "ScoreUnits"),
    "adversarial": of("objectives.games.adversarial", "Adversarial"),
    "adversarial_losses": of("objectives.games.adversarial", "Softplus", "Hinge"),
    "guided_students": of("distillation.guided.students", "IntoNetwork", "IntoAdapters", "IntoSide", "IntoLoRA"),
    "real_samples": of("objectives.games.adversarial", "GivenData", "OwnCleaner"),
}
"""The parts of score games."""

GAME_DISTILLATIONS: dict[str, str] = of(
    "distillation.games.matching", "DMD", "DMD2", "FDistill", "SharedDMD", "PhasedDMD", "SiD", "ScoreImplicitMatching"
)
GAME_DISTILLATIONS |= of("distillation.games.matching", "FisherDistill", "VariationalScore", "RandomGuidance")
GAME_DISTILLATIONS |= of("distillation.games.matching", "GuidanceAugmented")
GAME_DISTILLATIONS |= of("distillation.games.adversarial", "LADD", "SelfCooperative")
GAME_DISTILLATIONS |= of("distillation.guided.distilled", "GuidanceDistillation")
GAME_DISTILLATIONS |= of("distillation.games.composed", "RCM", "AnyFlow", "SplitTimes", "SelfForcing")
"""Distillations by score games."""
