"""The catalogue of components: the one list that command line, recipes, documentation and tests read.

Nothing outside it can be built from a file.  An entry is the place of its definition, imported when it is used; one
that ends in () is a function that creates a component (a recipe, CFG) rather than a component itself.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib
import inspect
import re
import typing
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from beeline.config import entries
from beeline.config.entries import of as _of
from beeline.config.places import placed
from beeline.config.slots import SLOTS
from beeline.core.errors import BeelineError, nearest, require

CATALOGUE: dict[str, dict[str, str]] = {
    # what a flow is
    "paths": _of("paths.affine", "Linear", "Cosine", "VariancePreserving", "Rotation", "Polynomial", "Affine")
    | _of("paths.interpolant", "VarianceExploding", "ConstantAcceleration", "Interpolant", "Bridge", "EncodeDecode")
    | _of("paths.part", "PartOfPath")
    | _of("spaces.manifold", "Geodesic")
    | _of("spaces.tokens", "TokenMixture")
    | _of("spaces.simplex", "Dirichlet", "GumbelSoftmax"),
    "latents": _of("paths.interpolant", "BrownianBridge", "Parabola", "SineSquared"),
    "spaces": _of("spaces.manifold", "Sphere", "Rotations", "Torus"),
    "times": _of("times.samplers", "Uniform", "LogitNormal", "Mode", "CosMap", "UShaped", "Bifocal", "Beta", "At")
    | _of("times.composed", "Stratified", "Antithetic", "Frames", "Continued", "Pairs", "Binned", "NormalSNR"),
    "schedules": _of(
        "times.schedules", "Uniform", "Shifted", "FluxShifted", "ResolutionShifted", "Power", "Cosine", "Karras"
    )
    | _of("times.schedules", "Quantiles", "Windows", "Explicit")
    | _of("networks.hub.checkpoint_schedule", "CheckpointSchedule")
    | _of("networks.hub.diffusion", "DiffusionSchedule"),
    "sources": _of("couplings.sources", "Gaussian", "Uniform", "Empirical")
    | _of("couplings.heavy_tailed", "StudentT")
    | _of("couplings.trajectory", "Trajectory")
    | _of("spaces.manifold", "UniformOnSpace")
    | _of("spaces.tokens", "UniformTokens", "MaskTokens")
    | _of("spaces.simplex", "Simplex", "GumbelSimplex")
    | _of("data.translation", "DatasetSource"),
    "couplings": _of("couplings.basic", "Independent", "Paired", "MinibatchOT", "PairedOrOT")
    | _of(
        "couplings.transport", "Sinkhorn", "Unbalanced", "StableMatching", "Immiscible", "ConditionalOT", "Remembered"
    )
    | _of("couplings.stored", "Annealed")
    | _of("objectives.velocity_ot", "VelocityOT"),
    "predictions": _of("fields.flow", "Velocity", "Data", "Noise") | _of("fields.prediction", "Score", "Boundary"),
    "networks": entries.NETWORKS,
    **entries.TRANSFORMERS,
    **entries.SMALLER,
    "pyramids": _of("spaces.pyramid", "Pyramid"),
    # using one
    "solvers": _of("solvers.runge_kutta", "EULER", "MIDPOINT", "HEUN", "RALSTON", "RK3", "RK4", "RungeKutta")
    | _of("solvers.runge_kutta", "MidpointReuse", "Taylor", "FlowMapStep")
    | _of("solvers.multistep", "AdamsBashforth", "DPMSolver", "DEIS", "UniPC", "KeepNoise", "Exponential")
    | _of("solvers.adaptive", "Adaptive")
    | _of("solvers.sde", "EulerMaruyama", "Overshoot", "Refresh", "Langevin")
    | _of("solvers.reversible", "Reversible", "FixedPoint", "Symmetric")
    | _of("solvers.consistency", "ConsistencyStep")
    | _of("solvers.parallel_in_time", "Picard", "GaussSeidelJacobi")
    | _of("solvers.fitted.linear", "Fitted")
    | _of("solvers.fitted.state_weights", "StateWeights")
    | _of("solvers.latent_sde", "LatentSDE")
    | _of("solvers.time_travel", "TimeTravel")
    | _of("spaces.manifold", "GeodesicEuler", "Projected")
    | _of("spaces.tokens", "TokenJumps")
    | _of("spaces.confident_tokens", "ConfidentJumps"),
    "tableaus": _of("solvers.adaptive", "BOGACKI_SHAMPINE", "DORMAND_PRINCE", "TSITOURAS", "Embedded"),
    "noises": _of("solvers.diffusions", "White", "Brownian"),
    "diffusions": _of("solvers.diffusions", "Fading", "Hump", "Rectified"),
    "clocks": _of("solvers.exponential", "LogSNR", "Time", "Ratio"),
    "divergences": _of("density.likelihood", "Exact", "Hutchinson", "HutchPlusPlus"),
    "gradients": _of("density.adjoint", "Stored", "Checkpointed", "Adjoint"),
    **entries.GUIDANCE,
    **entries.EDITS,
    **entries.GAMES,
    "caches": _of("networks.hub.caches", "FirstBlock", "MagCache", "TaylorSeer", "AttentionBroadcast", "FasterCache"),
    "rotaries": _of("networks.hub.sizes.rotary", "PositionInterpolation", "NTKAware", "YaRN"),
    "samplers": _of("sampling.sampler", "Sampler")
    | _of("sampling.enlarging", "Enlarging")
    | _of("sampling.anchored", "Anchored")
    | _of("sampling.frame_by_frame", "FrameByFrame")
    | _of("sampling.refined", "RefinedNoise")
    | _of("sampling.search.best_of", "BestOf", "ParetoBest")
    | _of("sampling.search.stepwise", "GreedySearch", "PathIntegral")
    | _of("sampling.search.rollover", "RolloverBudget")
    | _of("sampling.search.particles", "Particles", "FeynmanKac")
    | _of("sampling.auto", "auto_sampler()"),
    "resizes": _of("sampling.enlarging", "Bicubic"),
    "fits": _of("distillation.fit_solver", "Bespoke")
    | _of("distillation.fit_weights", "StateDependent")
    | _of("distillation.fit_steps", "Chosen", "Searched", "Improved", "AlignedSteps", "Bellman", "Evolved"),
    # learning one
    "objectives": _of("objectives.matching", "FlowMatching")
    | _of("objectives.latent_noise", "LatentNoise")
    | _of("objectives.classify", "Classify", "CausalLikelihood")
    | _of("objectives.hierarchical", "Hierarchical")
    | _of("objectives.pyramid", "PyramidMatching")
    | _of("objectives.guided", "GuidanceFree", "ModelGuidance", "Anticipating", "Contrastive", "GuidanceDistilled")
    | _of("objectives.alignment", "Aligned", "Separable", "Dispersed", "SmoothSteps", "SelfRectified")
    | _of("objectives.alignment", "SelfPerceptual", "Noted")
    | _of("objectives.second_order", "ConstantAccelerationMatching", "EncodedSource")
    | _of("objectives.coupled", "Augmented")
    | _of("objectives.editing.instructed", "Instructed")
    | _of("objectives.editing.views", "Recomposed")
    | _of("objectives.windows", "Windowed", "TwoHops")
    | _of("objectives.maps.decoding", "DecodingMatching")
    | entries.MAP_OBJECTIVES
    | _of("objectives.games.game", "ScoreGame")
    | _of("objectives.games.distance", "SampleDistance")
    | _of("objectives.games.composed", "WithGame", "SplitGame")
    | _of("distillation.inner_loop", "InnerLoopMatching")
    | _of("objectives.deep_supervision.objective", "DeepSupervision")
    | _of("objectives.tables", "RowMatching")
    | _of("objectives.subsets.elastic", "Elastic")
    | _of("objectives.regression", "Regression", "Reconstruction")
    | _of("objectives.losses.adaptive_weights", "Uncertain", "Balanced", "Importance"),
    "part_draws": _of("objectives.subsets.draws", "AnyPart", "Listed", "Sandwich", "Nested"),
    "weights": _of("objectives.losses.basic", "one")
    | _of("objectives.losses.weights", "ByDensity", "PowerWeight", "MinSNR", "SigmoidSNR"),
    "distances": _of("objectives.losses.basic", "squared", "Huber")
    | _of("objectives.losses.distances", "Direction", "Perceptual", "Combined", "FeatureWeighted", "Bregman")
    | _of("objectives.losses.distances", "AffineInvariant")
    | _of("objectives.losses.residuals", "AdaptivePower", "NormalisedTangent"),
    **entries.MAPS,
    "derivatives": _of("objectives.maps.derivatives", "ForwardMode", "FiniteDifference"),
    "costs": _of("objectives.losses.distances", "PowerCost"),
    "drops": _of("objectives.matching", "Drop"),
    "distillations": _of("distillation.students", "Reflow", "OneStep")
    | _of("distillation.presets", "ImprovedReflow()", "BellmanReflow()")
    | _of("distillation.inner_loop", "InnerLoopFeedback")
    | _of("distillation.decoding", "ParallelDecoding")
    | entries.MAP_DISTILLATIONS
    | entries.GAME_DISTILLATIONS
    | _of("distillation.finetune", "PeRFlow", "ContrastTuned", "FeatureTuned", "GuidanceTuned")
    | _of("distillation.adapting", "Adaptation", "BranchTraining", "Unlearning", "SideTuned", "Slimming", "Continued")
    | _of("distillation.controls.training", "ControlTraining"),
    "pair_filters": _of("distillation.store.filters", "Nearest", "LowestEnergy")
    | _of("runs.pairs.agreeing", "Agreeing"),
    "training": _of("training.config", "Training"),
    "compute": _of("training.compute", "Compute"),
    "data_pruning": _of("training.feed.data_pruning", "DataPruning"),
    "early_stopping": _of("training.early_stopping", "EarlyStopping"),
    "optimizers": _of("training.optim.optimizers", "AdamW", "Muon", "ScheduleFree", "Prodigy", "DoG")
    | _of("training.optim.optimizers", "DAdaptSGD", "DAdaptAdam")
    | _of("training.optim.sparse", "SparseProjection", "LowRankGradients"),
    "lr_schedules": _of(
        "training.optim.learning_rate", "Constant", "WarmupCosine", "WarmupConstantCooldown", "OneCycle", "InverseRoot"
    )
    | _of("training.optim.learning_rate", "Cooldown", "RangeTest"),
    "averages": _of("training.optim.ema", "EMA", "PowerEMA", "UniformAverage"),
    "parallel": _of("training.distributed.parallel", "SingleDevice", "DDP", "FSDP"),
    "trackers": _of("training.logs.tensorboard", "TensorBoard")
    | _of("training.logs.weights_and_biases", "WandB")
    | _of("training.logs.mlflow_runs", "MLflow"),
    "random": _of("core.rng", "Rng"),
    # data and figures
    "data": _of("data.image_files", "Digits", "ImageFile")
    | _of("data.pictures.buckets", "ImageBuckets")
    | _of("runs.latents.encoding", "Latents")
    | _of("data.point_files", "PointFile", "DistributionData")
    | _of("runs.adapters.samples", "SamplesOf")
    | _of("data.tables.files", "TableFile", "TableStream")
    | _of("data.sequence_files", "SequenceFile", "MarkovChain")
    | _of("data.directions", "Directions")
    | _of("data.signals.array_files", "ArrayFile")
    | _of("data.records.tar_shards", "TarShards")
    | _of("data.hub.hub_images", "HubImages")
    | _of("data.hub.hub_arrays", "HubArrays")
    | _of("data.hub.hub_stream", "HubStream")
    | _of("data.translation", "PairedDataset"),
    **entries.ENCODED,
    "modalities": _of("data.images", "Image")
    | _of("data.latents.modality", "LatentImage")
    | _of("data.points", "Points")
    | _of("data.signals.arrays", "Arrays")
    | _of("data.tables.table", "Table")
    | _of("data.sequences", "Sequences"),
    "distributions": _of("data.distributions.mixtures", "Gaussian", "GaussianMixture", "TwoMoons")
    | _of("data.distributions.checkerboard", "Checkerboard"),
    "encoders": _of("objectives.losses.encoders", "RandomFeatures")
    | _of("evaluation.inception", "Inception")
    | _of("runs.features.bundles", "OfBundle")
    | _of("runs.features.hub", "HubVision"),
    "features": _of("evaluation.features", "Identity", "SmallClassifier", "Module")
    | _of("evaluation.encoded", "Encoded", "EncodedPictures"),
    "metrics": _of("evaluation.metrics", "Frechet", "Kernel", "KID", "SlicedWasserstein", "Energy", "LabelAgreement")
    | _of("evaluation.neighbours", "Precision", "Recall", "Density", "Coverage")
    | _of("data.sequences", "NGramDivergence"),
    "tablemetrics": _of("data.tables.metrics.scores", "ShapeError", "TrendError", "TwoSample", "Precision", "Recall")
    | _of("data.tables.metrics.scores", "MissingError", "Violations")
    | _of("data.tables.metrics.privacy", "Duplicates"),
    "recipes": _of("recipes.images", "digits()", "mnist()", "images()", "captions()", "latents()", "autoencoder()")
    | _of("recipes.translation", "transfer()", "translation()", "editor()")
    | _of("recipes.points", "points()", "two_moons()", "directions()")
    | _of("recipes.tables", "table()")
    | _of("recipes.signals", "arrays()")
    | _of("recipes.sequences", "sequences()")
    | _of("recipes.learning", "transport()", "transport_by_label()", "middle_times()", "cosine()", "boundary()")
    | _of("recipes.learning", "heavy_tails()", "guidance_free()", "model_guidance()", "anticipating()", "dispersed()")
    | _of("recipes.learning", "smooth()", "self_rectified()", "ring()"),
    "runs": _of("runs.run", "Run", "Distilled"),
    "tasks": _of("runs.solving.tasks", "Inpaint", "Impute", "Forecast", "Upscale", "Deblur", "Denoise", "Colourise"),
}

CUSTOM: dict[str, Any] = {}
"""Full name -> component that the user registered; see ``registry``."""


WORDS: Mapping[str, Any] = {"true": True, "false": False, "none": None, "null": None}
WORDS = {**WORDS, "inf": float("inf"), "nan": float("nan")}
"""Words that stand for plain values where a file or a command line gives text."""


@dataclass(frozen=True)
class Setting:
    """One setting of a component: what it may hold."""

    name: str
    text: str  # the annotation as written
    hint: Any  # the annotation as a type; Any where it cannot be resolved
    default: Any  # inspect.Parameter.empty where the setting has to be given
    kinds: tuple[str, ...]  # kinds of component that fit; empty for plain values

    @property
    def needed(self) -> bool:
        return self.default is inspect.Parameter.empty


def find(name: str, kinds: Iterable[str] = ()) -> str:
    """The full name ("times.LogitNormal") of a short or full one, whatever its case; ValueError with the nearest.

    >>> find("logit-normal", ["times"])
    'times.LogitNormal'
    """
    if ":" in name:  # package.module:Class, of a package that the user trusts
        member(name)
        return name
    kind, _, short = name.rpartition(".")
    wanted = [k for k in kinds if k in CATALOGUE]
    if kind:
        require(kind in CATALOGUE, f"there is no kind of component {kind!r}; {nearest(kind, CATALOGUE)}")
        require(
            not wanted or kind in wanted,
            f"{name!r} is one of the {kind}, which do not fit here; "
            f"{nearest(short, (n for k in wanted for n in CATALOGUE[k]))}",
        )
        wanted = [kind]
    among = wanted or list(CATALOGUE)
    found = [f"{k}.{n}" for k in among for n in CATALOGUE[k] if fold(n) == fold(short)]
    found = [f for f in found if f.partition(".")[2] == short] or found  # Digits is a data set, digits a recipe
    if not found:
        hint = nearest(short, {n for k in among for n in CATALOGUE[k]})
        if not wanted:  # every name there is would be no help
            raise BeelineError(
                f"there is no component {short!r}; {hint.split('valid names')[0]}'beeline list' shows all"
            )
        own = f"; for a component of your own call bl.register({wanted[0]!r}, {short!r}, ...) first" if kind else ""
        raise BeelineError(f"{short!r} is none of the {' or '.join(wanted)}; {hint}{own}")
    require(
        len(found) == 1,
        f"{name!r} may mean {', '.join(found)}; one name has to mean one component: write it with its kind",
    )
    return found[0]


def member(full: str) -> Any:
    """The class, function or constant of a full name, imported now."""
    if full in CUSTOM:
        return CUSTOM[full]
    if ":" in full:
        return placed(full)
    kind, _, name = full.partition(".")
    module, _, attribute = CATALOGUE[kind][name].removesuffix("()").partition(":")
    return getattr(importlib.import_module(module), attribute)


def makes(full: str) -> bool:
    """Whether a member has settings of its own: a class or a maker, not a constant or a plain function."""
    kind, _, name = full.partition(".")
    if full in CUSTOM:  # a function of a slot, such as a distance, has no settings; a recipe has
        return isinstance(CUSTOM[full], type) or kind == "recipes"
    return (":" not in full and CATALOGUE[kind][name].endswith("()")) or isinstance(member(full), type)


def name_of(part: Any) -> str | None:
    """The full name of a class, a function, or the class or constant of an object; None outside the catalogue."""
    if isinstance(part, type) or inspect.isfunction(part):
        return _places().get(f"{part.__module__}:{part.__qualname__}")
    own = next((full for full, target in CUSTOM.items() if target is part), None)
    full = own or name_of(type(part))
    if own is not None or full is None or not dataclasses.is_dataclass(part):
        return full
    kind = full.partition(".")[0]
    constants = (f"{kind}.{name}" for name in CATALOGUE[kind] if name.isupper())
    return next((c for c in constants if not makes(c) and member(c) == part), full)


@functools.cache
def settings(target: Callable[..., Any]) -> Mapping[str, Setting]:
    """The settings of a component class or maker, by name, from its signature."""
    try:
        hints = typing.get_type_hints(target if dataclasses.is_dataclass(target) else _call(target))
    except (NameError, TypeError):  # an annotation that exists for the type checker only
        hints = {}
    own = {f.name: f for f in dataclasses.fields(target)} if dataclasses.is_dataclass(target) else {}
    known = {}
    for name, parameter in inspect.signature(target).parameters.items():
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            continue
        default, note = parameter.default, parameter.annotation
        factory = own[name].default_factory if name in own else dataclasses.MISSING
        if factory is not dataclasses.MISSING:
            default = factory()
        text = note if isinstance(note, str) else inspect.formatannotation(note)
        hint = hints.get(name, Any)
        known[name] = Setting(name, text, hint, default, _kinds(hint, text, default))
    return known


def fold(name: str) -> str:
    return name.replace("-", "").replace("_", "").lower()


def forget() -> None:
    """Read the catalogue anew, after a component was registered or removed."""
    _places.cache_clear()


@functools.cache
def _places() -> Mapping[str, str]:
    return {
        place.removesuffix("()"): f"{kind}.{name}"
        for kind, names in CATALOGUE.items()
        for name, place in names.items()
        if not _constant(f"{kind}.{name}")
    }


def _constant(full: str) -> bool:
    """Whether the user registered an object rather than a class or a function."""
    return full in CUSTOM and not (isinstance(CUSTOM[full], type) or inspect.isroutine(CUSTOM[full]))


def _call(target: Callable[..., Any]) -> Callable[..., Any]:
    return target.__init__ if isinstance(target, type) else target  # type: ignore[misc]


def _kinds(hint: Any, text: str, default: Any) -> tuple[str, ...]:
    """Kinds that a setting takes: from its annotation, and from its default."""
    found: list[str | None] = []
    todo = [hint]
    while todo:
        one = todo.pop()
        todo.extend(typing.get_args(one))
        if isinstance(one, type) and one.__module__.startswith(("beeline.", "torch.nn")):
            found.append((name_of(one) or "").partition(".")[0] or SLOTS.get(one.__name__))
    # an alias such as Weight resolves to a bare Callable: only its written name tells the kind
    if "Callable" in str(hint):
        found.extend(SLOTS.get(word) for word in re.findall(r"\w+", text))
    if default is not None and default is not inspect.Parameter.empty:
        found.append((name_of(default) or "").partition(".")[0])
    return tuple(dict.fromkeys(kind for kind in found if kind))
