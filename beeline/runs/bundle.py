"""A flow on disk: model.safetensors and flow.json, which together say everything that using it needs."""

from __future__ import annotations

import html
import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from beeline.config import build as config
from beeline.config.places import trusting
from beeline.core.errors import BeelineError, require
from beeline.core.files import PART, load_matching, read_tensors, sweep, write_json, write_tensors
from beeline.core.modes import AUTO, Device, device_of, moved, resolve_device
from beeline.core.old_names import FORMAT
from beeline.core.rng import Rng
from beeline.core.types import Cond, map_cond
from beeline.couplings.watermark import TreeRing
from beeline.data.modality import check_modality
from beeline.data.translation import DatasetSource
from beeline.distillation.pairs import starts
from beeline.fields.flow import Flow
from beeline.fields.trained import trained_of
from beeline.runs import manifest
from beeline.runs.solving.uses import Uses
from beeline.sampling.sampler import Sampler
from beeline.sampling.spread import parallel_map
from beeline.sampling.steering.modalities import for_modality

NUMBERS = 2**19  # in a batch of small data, so that its features stay in the cache of a processor

HUB = "hub:"  # what stands before the id of a bundle on the hub, so that no missing directory is looked for there


@dataclass(frozen=True)
class Bundle(Uses):
    """A flow with its sampler, its modality and its lineage.

    ``null`` is that of the flow, the condition that stands for "none" where one was learned; drawing without a
    condition uses it.  One that is given to the bundle alone is recorded in its flow.
    """

    flow: Flow
    sampler: Sampler = field(default_factory=Sampler)
    modality: Any = None  # a fitted Modality, or None for bare tensors
    lineage: dict[str, Any] = field(default_factory=dict)  # plain data: recipe, data, parent, figures
    null: Any = None
    weights: str = ""  # SHA-256 of the weights on disk; empty before they are saved
    mark: TreeRing | None = None  # a watermark of the source points; it is not saved

    def __post_init__(self) -> None:
        if self.modality is not None:
            check_modality(self.modality)
        if self.flow.null is None and self.null is not None:
            object.__setattr__(self, "flow", replace(self.flow, null=self.null))
        object.__setattr__(self, "null", self.flow.null)

    def sample(
        self,
        n: int,
        *,
        cond: Any = None,
        seed: int | None = 0,
        seeds: Sequence[int] | None = None,
        sampler: Sampler | None = None,
        batch_size: int | None = None,
        watch: Callable[[Tensor, Tensor], None] | None = None,
        **conditions: Any,
    ) -> Any:
        """``n`` samples in the user's own form (tensors [n,*S] when there is no modality).

        ``cond`` is in the user's own form too, one for all or one per sample; ``label=3`` is short for
        ``cond={"label": 3}``.  The same ``seed`` gives the same samples, also by default; ``seed=None`` gives new ones
        in every call.  ``seeds`` gives every sample a seed of its own (default 0 .. n-1 under ``seed``): the same seed
        gives the same sample in any batch.
        """
        seed = secrets.randbits(62) if seed is None else seed
        require(
            isinstance(n, int) and n >= 1,
            f"n={n!r} samples were requested, which is no count; give a whole number from 1",
        )
        require(
            cond is None or not conditions,
            f"sample was given cond= and {', '.join(conditions)}=; give the conditions in one way",
        )
        cond = conditions or cond
        if self.modality is not None:
            modality, cond = self.modality.of_condition(cond)
            if modality is not self.modality:  # samples of another shape
                self = replace(self, modality=modality)
        keys = list(range(n)) if seeds is None else [Rng(s).seed for s in seeds]  # whole numbers
        require(len(keys) == n, f"{len(keys)} seeds were given for {n} samples; give one seed per sample")
        x0 = self.start(keys, seed)
        how = (sampler or self.sampler).seeded(keys, seed)
        made = self.draw(x0, self.condition(cond, n), sampler=how, batch_size=batch_size, watch=watch)
        if self.modality is None:
            return made
        raw = self.modality.decode(made)
        return raw if cond is None else self.modality.with_condition(raw, cond)

    def translate(
        self,
        raw: Any,
        *,
        cond: Any = None,
        seed: int = 0,
        sampler: Sampler | None = None,
        batch_size: int | None = None,
    ) -> Any:
        """Carry data of the source (in their own form, as its data set reads them) to the target, row by row."""
        source = self.flow.source
        require(
            isinstance(source, DatasetSource) and self.modality is not None,
            "this flow starts from noise, so there is nothing to carry over; train one between two data sets, for "
            "example the recipe 'transfer', or edit data with inversion",
        )
        assert isinstance(source, DatasetSource)
        x0 = source.modality.encode(raw).x1
        how = (sampler or self.sampler).seeded(range(len(x0)), seed)
        made = self.draw(x0, self.condition(cond, len(x0)), sampler=how, batch_size=batch_size)
        assert self.modality is not None
        return self.modality.decode(made)

    def start(self, seeds: Sequence[int], seed: int = 0) -> Tensor:
        """Source points [len(seeds), *S]; row i depends on ``seed`` and seeds[i] alone."""
        shape: Any = self.modality.shape if self.modality is not None else self.lineage.get("shape")
        require(shape is not None, "this bundle does not know the shape of a datum; save it with a modality")
        x0 = starts(self.flow, seeds, Rng(seed).fork("sample"), torch.empty(1, *shape))
        return x0 if self.mark is None else self.mark(x0)

    def condition(self, cond: Any, n: int) -> Cond:
        """A condition in the user's form as tensors for ``n`` samples; the learned null one for None."""
        if self.modality is None:
            return cond  # type: ignore[no-any-return]
        if cond is not None:
            made: Cond = self.modality.condition(cond, n)
            return made
        wanted = sorted(self.modality.conditions)
        require(
            not wanted or (self.null is not None and self.null != {}),
            f"this model was trained on the conditions {wanted} without ever dropping them, so that it cannot "
            f"sample unconditionally; give one, for example --condition {wanted[0] if wanted else ''}=...",
        )
        return None  # which networks take as the null condition

    @property
    def device(self) -> torch.device:
        """Where the flow is, and where it draws."""
        return device_of(self.flow) or torch.device("cpu")

    def to(self, device: Device) -> Bundle:
        """The bundle on another device, with all that the flow and its sampler hold; this one stays where it is."""
        where, seen = resolve_device(device), {}  # type: ignore[var-annotated]
        return replace(self, flow=moved(self.flow, where, seen), sampler=moved(self.sampler, where, seen))

    def draw(
        self,
        x0: Tensor,
        cond: Cond = None,
        *,
        sampler: Sampler | None = None,
        batch_size: int | None = None,
        watch: Callable[[Tensor, Tensor], None] | None = None,
    ) -> Tensor:
        """Encoded data from source points, in batches, on the flow's device.

        The batch size follows from the size of a datum unless it is given.  Small data are sampled in batches on all
        cores of a processor at once; ``watch`` sees one batch after another.
        """
        how, where = for_modality(sampler or self.sampler, self.modality), self.device
        size = batch_size or min(2048, max(256, NUMBERS // max(1, x0[0].numel())))
        require(size >= 1, f"batch_size={size}; a batch holds at least one sample")

        def part(i: int) -> Tensor:
            here = map_cond(lambda leaf: leaf[i : i + size].to(where), cond)
            return how.for_rows(i, i + size)(self.flow, x0[i : i + size].to(where), here, watch=watch)

        starts = range(0, len(x0), size)
        alone = watch is not None or where.type != "cpu"
        return torch.cat([part(i) for i in starts] if alone else parallel_map(part, starts))

    def save(self, directory: str | Path) -> Path:
        """Write model.safetensors and flow.json; both are replaced atomically, flow.json last."""
        directory = Path(directory)
        net = self.flow.field
        require(
            isinstance(net, nn.Module),
            f"a bundle saves a network, but this flow's field is {type(net).__name__}; wrap it in a Network",
        )
        weights = directory / "model.safetensors"
        begun = {weights.name, "flow.json"}  # or a part of one, of a process that died while it wrote
        others = (
            [p for p in directory.iterdir() if p.name not in begun and p.suffix != PART] if directory.exists() else []
        )
        require(
            not others or (directory / "flow.json").exists(),
            f"{directory} exists and is not a bundle; nothing was written: choose another directory",
        )
        data: dict[str, Any] = {  # complete before anything is written: a part may have no description
            "format": FORMAT,
            "field": config.describe(net),
            "path": config.describe(self.flow.path),
            "source": config.describe(self.flow.source),
            "independent": self.flow.independent,
            "sampler": config.describe(self.sampler),
            "modality": None if self.modality is None else config.describe(self.modality),
            "null": config.describe(self.null),
            **({} if self.flow.trained is None else {"trained": self.flow.trained.plain()}),
            "lineage": self.lineage,
        }
        if directory.exists():
            sweep(directory)
        digest = write_tensors(weights, net.state_dict())
        data["weights"] = {"file": weights.name, "bytes": weights.stat().st_size, "sha256": digest}
        write_json(directory / "flow.json", {**data, "content": manifest.content(data)})
        return directory

    @property
    def parameters(self) -> int:
        """Number of weights of the network."""
        return sum(p.numel() for p in self.flow.field.parameters()) if isinstance(self.flow.field, nn.Module) else 0

    def facts(self) -> dict[str, str]:
        """What the bundle is, as short texts by name: its data, conditions, network and sampler."""
        modality = self.modality
        kind = "tensors" if modality is None else type(modality).__name__
        shape = None if modality is None else tuple(modality.shape)
        found = {
            "data": kind if shape is None else f"{kind} of shape {shape}",
            "conditions": ", ".join(sorted(modality.conditions)) if modality is not None else "",
            "network": f"{type(self.flow.field).__name__}, {self.parameters:,} weights",
            "sampler": f"{type(self.sampler.solver).__name__}, {self.sampler.steps} steps",
            "made by": str(self.lineage.get("made_by", "")),
        }
        return {name: text for name, text in found.items() if text}

    def __repr__(self) -> str:
        return f"Bundle({self.parameters:,} weights, {self.sampler.steps} steps, {type(self.modality).__name__})"

    def _repr_html_(self) -> str:
        """The facts as a small table for a notebook."""
        rows = "".join(f"<tr><th>{html.escape(k)}</th><td>{html.escape(v)}</td></tr>" for k, v in self.facts().items())
        return f"<table><caption>beeline Bundle</caption>{rows}</table>"


def load(
    directory_or_hub_id: str | Path,
    *,
    device: Device = AUTO,
    revision: str | None = None,
    trust: Sequence[str] = (),
) -> Bundle:
    """A bundle from a directory (a bundle, or a run that holds one) or from a Hugging Face hub id ``hub:owner/name``.

    It is loaded to ``device``: "auto" is CUDA where there is one, else the CPU.  ``revision`` is a branch, tag or
    commit of the hub, which may also be written ``hub:owner/name@revision``.
    ``trust`` names packages whose classes the bundle may name as "package.module:Class"; their code is run.
    ValueError when it is missing, cut, or of a newer format, or when there is no such device; nothing is unpickled.
    """
    where = resolve_device(device)
    directory = find(directory_or_hub_id, revision)
    with trusting(trust):
        said, weights, network = manifest.read(directory)
        with Rng(0).ambient():
            net = network()
    load_matching(net, read_tensors(directory / weights.file), str(directory / weights.file))
    net.eval().requires_grad_(False)
    return Bundle(
        flow=Flow(net.to(where), cast(Any, said.path), said.source, said.independent, trained=trained_of(said.trained)),
        sampler=said.sampler,
        modality=said.modality,
        lineage=dict(said.lineage or {}),
        null=said.null,
        weights=weights.sha256,
    ).to(where)


def find(where: str | Path, revision: str | None = None) -> Path:
    """The directory of a bundle: itself, a run's ``bundle``, or a download from the hub (``hub:owner/name``)."""
    name = str(where)
    if name.startswith(HUB):
        return _download(name.removeprefix(HUB), revision)
    require(revision is None, f"revision={revision!r} was given with the directory {where}; only the hub has revisions")
    path = Path(where)
    for candidate in (path, path / "bundle"):
        if (candidate / "flow.json").is_file():
            return candidate
    hint = f", or {HUB}{name} for one of the hub" if name.count("/") == 1 and not name.startswith((".", "/")) else ""
    raise BeelineError(
        f"{where} holds no bundle (no flow.json there or in its folder 'bundle'); "
        f"give the directory that training left{hint}"
    )


def _download(name: str, revision: str | None) -> Path:
    """The directory into which the hub gives a bundle: its flow.json and its safetensors, and nothing else."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    name, sign, said = name.partition("@")
    require(
        not (sign and revision is not None and said != revision),
        f"{name}@{said} was given with revision={revision!r}, but only one can be loaded; give one revision",
    )
    files = [f"{folder}{file}" for folder in ("", "bundle/") for file in ("flow.json", "*.safetensors")]
    try:
        return find(snapshot_download(name, revision=revision or said or None, allow_patterns=files))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        raise BeelineError(
            f"the hub gave no bundle {name!r} ({type(error).__name__}); check the spelling and the network"
        ) from None


def relabel(bundle: Bundle, **changes: Any) -> Bundle:
    """The bundle with entries of its lineage added or replaced."""
    return replace(bundle, lineage={**bundle.lineage, **changes})
