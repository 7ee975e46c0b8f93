"""Loading of bundles, and of pretrained pipelines of diffusers as bundles."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from beeline.core.errors import BeelineError, nearest, require
from beeline.core.files import read_plain
from beeline.core.modes import AUTO, Device, resolve_device
from beeline.hub.pipelines import from_pipeline
from beeline.hub.placement import (
    FILE_QUANTIZATIONS,
    NETWORKS,
    OFFLOADS,
    check_device,
    check_offload,
    check_quantization,
    quantization,
)
from beeline.hub.speed import cached, compiled
from beeline.networks.hub.caches import Cache
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


def load(
    directory_or_hub_id: str | Path,
    *,
    device: Device = AUTO,
    revision: str | None = None,
    trust: Sequence[str] = (),
    dtype: str | Mapping[str, str] | None = None,
    offload: str | None = None,
    device_map: str | None = None,
    quantization_config: Any = None,
    tiling: bool = False,
    slicing: bool = False,
    height: int | None = None,
    width: int | None = None,
    num_frames: int | None = None,
    max_sequence_length: int | None = None,
    cache: Cache | None = None,
    compile_blocks: bool = False,
    **components: Any,
) -> Bundle:
    """A bundle from a directory or the hub; a pipeline of diffusers becomes a bundle too.

    ``directory_or_hub_id`` is a bundle, a run, or a saved pipeline; ``owner/name`` is one of the hub, as is
    ``hub:owner/name@revision``.  ``device`` is "auto" for CUDA where there is one, else the CPU.  ``trust`` names
    packages whose classes a bundle may name.  The other arguments are for pipelines: ``dtype`` float32, bfloat16 or
    float16 (default bfloat16 on an accelerator, float32 on a CPU), or a mapping from components, and "default", to
    these; ``offload`` model, group or sequential, which keeps components or layers on the CPU until they are used;
    ``device_map`` balanced, which distributes the components over several accelerators; ``quantization_config``
    torchao-int8, torchao-float8, bitsandbytes-8bit or bitsandbytes-4bit for the weights of the networks that are
    evaluated in every step, or a ``PipelineQuantizationConfig`` of diffusers;
    ``tiling`` and ``slicing``, with which the autoencoder decodes a part of a picture, or one picture, at a time; the
    size in pixels and frames; ``max_sequence_length`` of a prompt in tokens; ``cache`` and ``compile_blocks``, as by
    ``bl.hub.cached`` and ``bl.hub.compiled``; ``components`` in place of those that are
    stored, as in ``from_pretrained``.

    Raises ValueError if there is no such bundle, pipeline, family or device; nothing is unpickled.
    """
    name, at = split(str(directory_or_hub_id), revision)
    index = pipeline_index(name, at)
    if index is None:
        more: dict[str, Any] = {
            "dtype": dtype,
            "offload": offload,
            "tiling": tiling,
            "slicing": slicing,
            "height": height,
        }
        more |= {"device_map": device_map, "quantization_config": quantization_config}
        more |= {"width": width, "num_frames": num_frames, "max_sequence_length": max_sequence_length, **components}
        more |= {"cache": cache, "compile_blocks": compile_blocks}
        given = [name for name, value in more.items() if value]
        require(
            not given,
            f"{', '.join(given)} was given for {directory_or_hub_id}, which is no pipeline of diffusers but a bundle; "
            "it has one network and its own size: leave it out",
        )
        return bundles.load(directory_or_hub_id, device=device, revision=revision, trust=trust)
    check_family(name, index)
    check_offload(offload, device_map)
    where = resolve_device(device)
    kinds = dtypes(dtype, where, index)
    check_device(offload, device_map, where)
    check_quantization(quantization_config, where)
    more = {"device_map": device_map, "quantization_config": quantization(quantization_config, index)}
    more = {name: value for name, value in more.items() if value is not None} | components
    library = diffusers(f"the pipeline {name}")
    try:
        pipeline = library.DiffusionPipeline.from_pretrained(name, revision=at, dtype=kinds, **more)
    except (OSError, ValueError, ImportError, RuntimeError) as error:
        raise BeelineError(
            f"the pipeline {name} cannot be loaded ({type(error).__name__}: {str(error)[:300]}); check that its files "
            "are complete, and that the packages of its components are installed"
        ) from error
    decode_in_parts(pipeline.vae, tiling, slicing)
    if offload is not None:
        OFFLOADS[offload](pipeline, where)
    elif device_map is None:
        pipeline.to(where)
    made = from_pipeline(
        pipeline, height=height, width=width, num_frames=num_frames, max_sequence_length=max_sequence_length
    )
    made = compiled(made) if compile_blocks else made
    made = made if cache is None else cached(made, cache)
    return bundles.relabel(made, made_from=str(directory_or_hub_id))


def from_single_file(
    path: str | Path,
    directory_or_hub_id: str | Path,
    *,
    component: str = "transformer",
    device: Device = AUTO,
    revision: str | None = None,
    dtype: str | Mapping[str, str] | None = None,
    **arguments: Any,
) -> Bundle:
    """A pipeline whose network is in one file, in the original layout or that of diffusers, as a bundle.

    ``path`` is a .safetensors or .gguf file with the weights of ``component``.  The configuration of the network and
    all other components are those of the saved pipeline ``directory_or_hub_id``.  GGUF weights stay quantized, and
    need the library gguf.  ``arguments`` are the other ones of ``bl.load``.

    Raises ValueError if there is no such file, pipeline or component, or if the file does not hold its weights.
    """
    file = Path(path)
    require(file.is_file(), f"there is no file {path}; give a .safetensors or .gguf file of a network")
    name, at = split(str(directory_or_hub_id), revision)
    index = pipeline_index(name, at)
    require(
        index is not None,
        f"{directory_or_hub_id} is no pipeline of diffusers, so that the network of {path} has no configuration; give "
        "a saved pipeline or owner/name of the hub",
    )
    assert index is not None
    check_family(name, index)
    known = [part for part in NETWORKS if isinstance(index.get(part), list)]
    require(component in known, f"component={component!r} was given; {nearest(component, known)}")
    kinds = dtypes(dtype, resolve_device(device), index)
    kind = kinds.get(component, kinds["default"])
    library = diffusers(f"the network of {path}")
    quantized = FILE_QUANTIZATIONS[file.suffix](library, kind) if file.suffix in FILE_QUANTIZATIONS else {}
    made: Any = getattr(library, index[component][1], None)
    require(
        isinstance(made, type) and issubclass(made, library.loaders.FromOriginalModelMixin),
        f"{index[component][1]} of {directory_or_hub_id} is not loaded from one file by diffusers; give a saved "
        "pipeline",
    )
    try:
        net = made.from_single_file(
            str(file), config=name, config_revision=at, subfolder=component, dtype=kind, **quantized
        )
    except (OSError, ValueError, ImportError, RuntimeError, LookupError, AttributeError) as error:
        raise BeelineError(
            f"{path} cannot be loaded as {made.__name__} ({type(error).__name__}: {str(error)[:300]}); check that the "
            f"file is complete, and that it holds the {component} of {directory_or_hub_id}"
        ) from error
    return load(directory_or_hub_id, device=device, revision=revision, dtype=dtype, **{component: net}, **arguments)


def dtypes(
    dtype: str | Mapping[str, str] | None, device: torch.device, index: Mapping[str, Any]
) -> dict[str, torch.dtype]:
    """The precision of the components of a pipeline by name; "default" is that of all others."""
    given = {"default": dtype} if dtype is None or isinstance(dtype, str) else {"default": None, **dtype}
    usual = torch.float32 if device.type == "cpu" else torch.bfloat16
    known = ["default", *(name for name, value in index.items() if isinstance(value, list))]
    for part, kind in given.items():
        require(kind is None or kind in DTYPES, f"dtype={kind!r} was given; {nearest(str(kind), DTYPES)}")
        require(
            part in known,
            f"a dtype was given for {part!r}, which is no component of this pipeline; {nearest(part, known)}",
        )
    return {part: usual if kind is None else DTYPES[kind] for part, kind in given.items()}


def decode_in_parts(vae: Any, tiling: bool, slicing: bool) -> None:
    """Switch on tiling and slicing of an autoencoder; raises ValueError for one that does not have them."""
    try:
        if tiling:
            vae.enable_tiling()
        if slicing:
            vae.enable_slicing()
    except NotImplementedError:
        raise BeelineError(
            f"tiling or slicing was requested of {type(vae).__name__}, which cannot decode in parts; leave it out, or "
            "sample fewer pictures at a time with batch_size"
        ) from None


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


def split(name: str, revision: str | None) -> tuple[str, str | None]:
    """The name without ``hub:`` and ``@revision``, and the revision."""
    if not name.startswith(HUB):
        return name, revision
    plain, _, said = name.removeprefix(HUB).partition("@")
    return plain, revision or said or None
