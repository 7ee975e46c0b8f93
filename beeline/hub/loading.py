"""Loading of bundles, and of pretrained pipelines of diffusers as bundles."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from beeline.core.errors import BeelineError, nearest, require
from beeline.core.files import read_plain
from beeline.core.modes import AUTO, Device, resolve_device
from beeline.hub.pipelines import from_pipeline
from beeline.networks.hub.families import FAMILIES
from beeline.networks.hub.imports import diffusers
from beeline.runs import bundle as bundles
from beeline.runs.bundle import HUB, Bundle

INDEX = "model_index.json"
DTYPES: Mapping[str, torch.dtype] = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}
OFFLOADS: Mapping[str, Callable[[Any, torch.device], None]] = {
    "model": lambda pipeline, device: pipeline.enable_model_cpu_offload(device=device),
    "group": lambda pipeline, device: pipeline.enable_group_offload(
        onload_device=device, offload_device=torch.device("cpu"), offload_type="leaf_level"
    ),
}
"""Name -> the function of diffusers that places the components of a pipeline on a device when they are used."""


def load(
    directory_or_hub_id: str | Path,
    *,
    device: Device = AUTO,
    revision: str | None = None,
    trust: Sequence[str] = (),
    dtype: str | None = None,
    offload: str | None = None,
    height: int | None = None,
    width: int | None = None,
    num_frames: int | None = None,
    max_sequence_length: int | None = None,
    **components: Any,
) -> Bundle:
    """A bundle from a directory or the hub; a pipeline of diffusers becomes a bundle too.

    ``directory_or_hub_id`` is a bundle, a run, or a saved pipeline; ``owner/name`` is one of the hub, as is
    ``hub:owner/name@revision``.  ``device`` is "auto" for CUDA where there is one, else the CPU.  ``trust`` names
    packages whose classes a bundle may name.  The other arguments are for pipelines: ``dtype`` float32, bfloat16 or
    float16 (default bfloat16 on an accelerator, float32 on a CPU); ``offload`` model or group, which keeps
    components on the CPU until they are used; the size in pixels and frames; ``max_sequence_length`` of a prompt in
    tokens; ``components`` in place of those that are stored, as in ``from_pretrained``.

    Raises ValueError if there is no such bundle, pipeline, family or device; nothing is unpickled.
    """
    name, at = _split(str(directory_or_hub_id), revision)
    index = pipeline_index(name, at)
    if index is None:
        return bundles.load(directory_or_hub_id, device=device, revision=revision, trust=trust)
    check_family(name, index)
    require(dtype is None or dtype in DTYPES, f"dtype={dtype!r} was given; {nearest(str(dtype), DTYPES)}")
    require(offload is None or offload in OFFLOADS, f"offload={offload!r} was given; {nearest(str(offload), OFFLOADS)}")
    where = resolve_device(device)
    require(
        offload is None or where.type != "cpu",
        f"offload={offload!r} was given with the device {where}; it moves components from the CPU to an accelerator: "
        "leave it out",
    )
    usual = torch.float32 if where.type == "cpu" else torch.bfloat16
    kind = usual if dtype is None else DTYPES[dtype]
    library = diffusers(f"the pipeline {name}")
    try:
        pipeline = library.DiffusionPipeline.from_pretrained(name, revision=at, dtype=kind, **components)
    except (OSError, ValueError, ImportError, RuntimeError) as error:
        raise BeelineError(
            f"the pipeline {name} cannot be loaded ({type(error).__name__}: {str(error)[:300]}); check that its files "
            "are complete, and that the packages of its components are installed"
        ) from error
    if offload is None:
        pipeline.to(where)
    else:
        OFFLOADS[offload](pipeline, where)
    made = from_pipeline(
        pipeline, height=height, width=width, num_frames=num_frames, max_sequence_length=max_sequence_length
    )
    return bundles.relabel(made, made_from=str(directory_or_hub_id))


def pipeline_index(name: str, revision: str | None = None) -> dict[str, Any] | None:
    """The content of ``model_index.json`` of a saved pipeline, local or on the hub; None if there is none."""
    if Path(name).exists():
        file = Path(name) / INDEX
        return read_plain(file) if file.is_file() else None  # type: ignore[return-value]
    if name.count("/") != 1 or name.startswith((".", "/")) or Path(name).parent.is_dir():
        return None  # a misspelt path below a directory that exists is no name of the hub
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import (
        EntryNotFoundError,
        GatedRepoError,
        HfHubHTTPError,
        HFValidationError,
        LocalEntryNotFoundError,
        OfflineModeIsEnabled,
        RepositoryNotFoundError,
    )

    try:
        return read_plain(Path(hf_hub_download(name, INDEX, revision=revision)))  # type: ignore[return-value]
    except GatedRepoError:
        raise BeelineError(
            f"{name} is gated: its owner gives access on request; accept its terms at https://huggingface.co/{name} "
            "and log in with `hf auth login`"
        ) from None
    except RepositoryNotFoundError:
        raise BeelineError(
            f"there is no directory {name}, and the hub has no public model of this name; check the spelling, or log "
            "in with `hf auth login` for a private one"
        ) from None
    except (LocalEntryNotFoundError, OfflineModeIsEnabled, ConnectionError):
        cached = ", ".join(cached_pipelines()) or "nothing"
        raise BeelineError(
            f"there is no directory {name}, and the hub cannot be reached; in the cache is {cached}: connect to the "
            "network, or give a directory"
        ) from None
    except EntryNotFoundError:
        return None  # a model of the hub that is no pipeline, such as a bundle
    except (HfHubHTTPError, HFValidationError) as error:
        raise BeelineError(f"the hub gave no {name} ({type(error).__name__}); check the spelling") from None


def cached_pipelines() -> list[str]:
    """Names of the pipelines in the cache of the hub."""
    from huggingface_hub import scan_cache_dir
    from huggingface_hub.errors import CacheNotFound

    try:
        repos = scan_cache_dir().repos
    except CacheNotFound:
        return []
    return sorted(repo.repo_id for repo in repos if any(f.file_name == INDEX for r in repo.revisions for f in r.files))


def check_family(name: str, index: Mapping[str, Any]) -> None:
    """Raise ValueError for a pipeline whose family is unknown, before its weights are loaded."""
    given = str(index.get("_class_name"))
    known = {pipeline: family.name for family in FAMILIES for pipeline in family.pipelines}
    require(
        given in known,
        f"{name} holds a {given}, which is no pipeline of a known family of flows; the families are "
        f"{', '.join(sorted(set(known.values())))}: use one of them, or add an entry to "
        "a module of beeline/networks/hub/table",
    )


def _split(name: str, revision: str | None) -> tuple[str, str | None]:
    """The name without ``hub:`` and ``@revision``, and the revision."""
    if not name.startswith(HUB):
        return name, revision
    plain, _, said = name.removeprefix(HUB).partition("@")
    return plain, revision or said or None
