"""The catalogue: the only list of components, and what is known about each.

Command line, recipes, documentation, web page and tests read it; nothing outside it can be built from a file.  An
entry is the place of its definition, imported when it is asked for; one that ends in () is a function that makes a
component (a recipe, CFG) rather than a component itself.
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

from beeline.core.types import BeelineError, nearest, require


def _of(module: str, *names: str) -> dict[str, str]:
    return {name.removesuffix("()"): f"beeline.{module}:{name}" for name in names}


CATALOGUE: Mapping[str, Mapping[str, str]] = {
    # what a flow is
    "paths": _of("core.path", "Linear", "Cosine", "VariancePreserving", "Polynomial", "Affine")
    | _of("core.interpolant", "VarianceExploding", "ConstantAcceleration", "Interpolant", "Bridge", "EncodeDecode")
    | _of("core.space", "Geodesic")
    | _of("core.discrete", "TokenMixture")
    | _of("core.simplex", "Dirichlet", "GumbelSoftmax"),
    "latents": _of("core.interpolant", "Brownian", "Parabola", "SineSquared"),
    "spaces": _of("core.space", "Sphere", "Rotations", "Torus"),
    "times": _of("core.times", "Uniform", "LogitNormal", "Mode", "CosMap", "UShaped", "Bifocal", "Beta", "At")
    | _of("core.draws", "Stratified", "Antithetic", "Frames", "Pairs", "Binned", "NormalSNR"),
    "schedules": _of(
        "core.schedule", "Uniform", "Shifted", "FluxShifted", "ResolutionShifted", "Power", "Cosine", "Karras"
    )
    | _of("core.schedule", "Quantiles", "Windows", "Explicit"),
    "sources": _of("core.source", "Gaussian", "Uniform", "Empirical")
    | _of("core.kernels", "StudentT")
    | _of("core.space", "Even")
    | _of("core.discrete", "UniformTokens", "MaskTokens")
    | _of("core.simplex", "Simplex", "GumbelSimplex")
    | _of("between", "FromData"),
    "couplings": _of("core.coupling", "Independent", "Paired", "MinibatchOT", "Matched")
    | _of("core.transport", "Sinkhorn", "Unbalanced", "StableMatching", "Immiscible", "ConditionalOT", "Remembered")
    | _of("learn.segments", "Annealed")
    | _of("learn.targets", "VelocityOT"),
    "predictions": _of("core.field", "Velocity", "Data", "Noise") | _of("core.prediction", "Score", "Boundary"),
    "networks": _of("nets.small", "MLP", "UNet")
    | _of("nets.dit", "DiT")
    | _of("nets.tabular", "TabularMLP", "TabularTransformer")
    | _of("core.field", "Network", "MapNetwork")
    | _of("core.prediction", "Ends")
    | _of("core.convert", "Converted")
    | _of("core.space", "Tangent")
    | _of("core.simplex", "Posterior")
    | _of("learn.shapes", "Potential", "Accelerating", "Helped")
    | _of("learn.deep", "Deep", "EarlyExit", "Refiner", "PatchHead")
    | _of("learn.heads", "Head", "Beside")
    | _of("learn.augmented", "FromStart")
    | _of("learn.targets", "RandomVelocity"),
    "pyramids": _of("core.pyramid", "Pyramid"),
    # using one
    "solvers": _of("core.solver", "EULER", "MIDPOINT", "HEUN", "RALSTON", "RK3", "RK4", "RungeKutta")
    | _of("core.solver", "MidpointReuse", "Taylor", "Jump")
    | _of("core.multistep", "AdamsBashforth", "DPMSolver", "DEIS", "UniPC", "KeepNoise", "Exponential")
    | _of("core.adaptive", "Adaptive")
    | _of("core.stochastic", "EulerMaruyama", "Overshoot", "Refresh", "Langevin")
    | _of("core.reversible", "Reversible", "FixedPoint", "Symmetric")
    | _of("core.picard", "Picard", "GaussSeidelJacobi")
    | _of("core.fitted", "Fitted")
    | _of("core.interpolant", "LatentSDE")
    | _of("core.space", "GeodesicEuler", "Projected")
    | _of("core.discrete", "TokenJumps"),
    "tableaus": _of("core.adaptive", "BOGACKI_SHAMPINE", "DORMAND_PRINCE", "TSITOURAS", "Embedded"),
    "noises": _of("core.noises", "White", "Brownian"),
    "diffusions": _of("core.noises", "Fading", "Hump", "Rectified"),
    "clocks": _of("core.semilinear", "LogSNR", "Time", "Ratio"),
    "divergences": _of("core.likelihood", "Exact", "Hutchinson", "HutchPlusPlus"),
    "gradients": _of("core.adjoint", "Stored", "Checkpointed", "Adjoint"),
    "guidance": _of("use.guidance", "Plain", "Guide", "CFG()")
    | _of("use.temperature", "Temperature")
    | _of("use.symbols", "StraightThrough")
    | _of("use.frames", "GivenFrames"),
    "references": _of("use.guidance", "Unconditional", "Weak") | _of("weakbundle", "WeakBundle"),
    "rules": _of("use.guidance", "Extrapolate"),
    "samplers": _of("use.sampler", "Sampler") | _of("use.auto", "auto_sampler()"),
    "fits": _of("learn.fit_solver", "Bespoke")
    | _of("learn.fit_steps", "Searched", "Improved", "Aligned", "Bellman", "Evolved"),
    # learning one
    "objectives": _of("learn.objective", "FlowMatching")
    | _of("learn.targets", "LatentNoise", "Classify", "Hierarchical", "PyramidMatching")
    | _of("learn.guided", "GuidanceFree", "ModelGuidance", "Anticipating", "Contrastive")
    | _of("learn.regularise", "Aligned", "Separable", "Dispersed", "SmoothSteps", "SelfRectified", "SelfPerceptual")
    | _of("learn.shapes", "ConstantAccelerationMatching", "EncodedSource")
    | _of("learn.augmented", "Augmented")
    | _of("learn.segments", "Windowed", "TwoHops")
    | _of("learn.deep", "DeepSupervision")
    | _of("learn.rows", "RowMatching")
    | _of("learn.weigh", "Uncertain", "Balanced", "Importance"),
    "weights": _of("learn.objective", "one") | _of("learn.weight", "ByDensity", "Power", "MinSNR", "SigmoidSNR"),
    "distances": _of("learn.objective", "squared", "Huber")
    | _of("learn.distance", "Direction", "Perceptual", "Combined", "Felt", "Bregman"),
    "costs": _of("learn.distance", "PowerCost"),
    "drops": _of("learn.objective", "Drop"),
    "distillations": _of("learn.distill", "Reflow", "OneStep")
    | _of("learn.tune", "PeRFlow", "ContrastTuned", "FeatureTuned", "GuidanceTuned"),
    "training": _of("learn.trainer", "Training"),
    "compute": _of("learn.compute", "Compute"),
    "prunings": _of("learn.prune", "Pruning"),
    "patiences": _of("learn.early", "Patience"),
    "optimisers": _of("learn.optim", "AdamW", "Muon", "ScheduleFree", "Prodigy", "DoG", "DAdaptSGD"),
    "rates": _of("learn.rate", "Constant", "WarmupCosine", "WarmupConstantCooldown", "OneCycle", "InverseRoot")
    | _of("learn.rate", "Cooldown", "RangeTest"),
    "averages": _of("learn.ema", "EMA", "Power", "Even"),
    "engines": _of("learn.parallel", "Alone", "Replicated", "Sharded"),
    "random": _of("core.rng", "Rng"),
    # data and figures
    "data": _of("data.imagefile", "Digits", "ImageFile")
    | _of("data.pointfile", "PointFile", "LawData")
    | _of("data.tablefile", "TableFile", "TableStream")
    | _of("data.symbolfile", "SymbolFile", "MarkovChain")
    | _of("data.directions", "Directions")
    | _of("between", "Between"),
    "modalities": _of("data.image", "Image")
    | _of("data.points", "Points")
    | _of("data.table", "Table")
    | _of("data.symbols", "Symbols"),
    "laws": _of("data.laws", "Gaussian", "GaussianMixture", "TwoMoons") | _of("data.checkerboard", "Checkerboard"),
    "encoders": _of("learn.encoders", "RandomFeatures") | _of("encoders", "OfBundle", "HubVision"),
    "features": _of("features", "Identity", "SmallClassifier", "Module"),
    "metrics": _of("metrics", "Frechet", "Kernel", "SlicedWasserstein", "Energy", "LabelAgreement")
    | _of("data.symbols", "Grams"),
    "tablemetrics": _of("data.tablemetrics", "ShapeError", "TrendError", "TwoSample", "Precision", "Recall")
    | _of("data.tablemetrics", "MissingError", "Violations")
    | _of("data.tableprivacy", "Duplicates"),
    "recipes": _of("recipes.images", "digits()", "mnist()", "images()")
    | _of("recipes.between", "transfer()", "translation()")
    | _of("recipes.points", "points()", "two_moons()", "directions()")
    | _of("recipes.tables", "table()")
    | _of("recipes.symbols", "symbols()")
    | _of("recipes.learning", "transport()", "transport_by_label()", "middle_times()", "cosine()", "boundary()")
    | _of("recipes.learning", "heavy_tails()", "guidance_free()", "model_guidance()", "anticipating()", "dispersed()")
    | _of("recipes.learning", "smooth()", "self_rectified()", "ring()"),
    "runs": _of("run", "Run", "Distilled"),
}

SLOTS: Mapping[str, str] = {
    "Path": "paths",
    "AffinePath": "paths",
    "SymbolPath": "paths",
    "Latent": "latents",
    "Space": "spaces",
    "Clock": "clocks",
    "Noise": "noises",
    "Diffusion": "diffusions",
    "TimeSampler": "times",
    "Schedule": "schedules",
    "Source": "sources",
    "Coupling": "couplings",
    "Prediction": "predictions",
    "Solver": "solvers",
    "Divergence": "divergences",
    "Gradient": "gradients",
    "Fit": "fits",
    "Guidance": "guidance",
    "Reference": "references",
    "Rule": "rules",
    "Controller": "controllers",
    "Edit": "edits",
    "Weight": "weights",
    "Distance": "distances",
    "Cost": "costs",
    "Pyramid": "pyramids",
    "Objective": "objectives",
    "Optimiser": "optimisers",
    "Rate": "rates",
    "Profile": "averages",
    "Pruning": "prunings",
    "Patience": "patiences",
    "Parallel": "engines",
    "Features": "features",
    "Encoder": "encoders",
    "Distillation": "distillations",
    "Backbone": "networks",
    "Module": "networks",
    "DataSet": "data",
    "Modality": "modalities",
    "Law": "laws",
    "Metric": "metrics",
}
"""The protocol that a setting is annotated with -> the kind of component that fills it."""

WORDS: Mapping[str, Any] = {
    "true": True,
    "false": False,
    "none": None,
    "null": None,
    "inf": float("inf"),
    "nan": float("nan"),
}
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
    found = [f"{k}.{n}" for k in among for n in CATALOGUE[k] if _fold(n) == _fold(short)]
    found = [f for f in found if f.partition(".")[2] == short] or found  # Digits is a data set, digits a recipe
    if not found:
        hint = nearest(short, {n for k in among for n in CATALOGUE[k]})
        if not wanted:  # every name there is would be no help
            raise BeelineError(
                f"there is no component {short!r}; {hint.split('valid names')[0]}'beeline list' shows all"
            )
        raise BeelineError(f"{short!r} is none of the {' or '.join(wanted)}; {hint}")
    require(
        len(found) == 1,
        f"{name!r} may mean {', '.join(found)}; one name has to mean one component: write it with its kind",
    )
    return found[0]


def member(full: str) -> Any:
    """The class, function or constant of a full name, imported now."""
    kind, _, name = full.partition(".")
    module, _, attribute = CATALOGUE[kind][name].removesuffix("()").partition(":")
    return getattr(importlib.import_module(module), attribute)


def makes(full: str) -> bool:
    """Whether a member has settings of its own: a class or a maker, not a constant or a plain function."""
    kind, _, name = full.partition(".")
    return CATALOGUE[kind][name].endswith("()") or isinstance(member(full), type)


def name_of(part: Any) -> str | None:
    """The full name of a class, a function, or the class or constant of an object; None outside the catalogue."""
    if isinstance(part, type) or inspect.isfunction(part):
        return _places().get(f"{part.__module__}:{part.__qualname__}")
    full = name_of(type(part))
    if full is None or not dataclasses.is_dataclass(part):
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
    made = {f.name: f for f in dataclasses.fields(target)} if dataclasses.is_dataclass(target) else {}
    known = {}
    for name, parameter in inspect.signature(target).parameters.items():
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            continue
        default, note = parameter.default, parameter.annotation
        factory = getattr(made.get(name), "default_factory", dataclasses.MISSING)
        if factory is not dataclasses.MISSING:
            default = factory()
        text = note if isinstance(note, str) else inspect.formatannotation(note)
        hint = hints.get(name, Any)
        known[name] = Setting(name, text, hint, default, _kinds(hint, text, default))
    return known


def _fold(name: str) -> str:
    return name.replace("-", "").replace("_", "").lower()


@functools.cache
def _places() -> Mapping[str, str]:
    return {
        place.removesuffix("()"): f"{kind}.{name}" for kind, names in CATALOGUE.items() for name, place in names.items()
    }


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
