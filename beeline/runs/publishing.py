"""Upload of a bundle to the Hugging Face hub, with a model card."""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from beeline.core.errors import BeelineError, require

if TYPE_CHECKING:  # a bundle imports this module to publish itself
    from beeline.evaluation.scores import Report
    from beeline.runs.bundle import Bundle

TAGS = ("flow-matching", "rectified-flow", "generative-model")
TEMPLATE = Path(__file__).parent / "templates" / "model_card.md.j2"
EXPORT = TEMPLATE.with_name("export_card.md.j2")

HTTP = ("httpx", "httpx2", "httpcore", "httpcore2", "requests")
"""Libraries with which versions of huggingface_hub connect; their errors have no common base."""


class HubApi(Protocol):
    """The members of ``huggingface_hub.HfApi`` that an upload uses."""

    def create_repo(self, repo_id: str, **settings: Any) -> Any: ...

    def upload_folder(self, **settings: Any) -> Any: ...


def push(
    bundle: Bundle,
    name: str,
    *,
    private: bool | None = None,
    token: str | None = None,
    license: str | None = None,
    message: str = "Upload a Beeline bundle",
    scores: Report | None = None,
    api: HubApi | None = None,
) -> str:
    """Upload a bundle with a model card to ``name``, owner/name of the hub, and return its address.

    ``private``: whether a new repository is private; None is the default of the hub, which is public for most owners.
    ``token``: a token of the hub that may write; None is that of ``hf auth login``, or of the variable HF_TOKEN.
    ``license``: its identifier on the hub, such as "mit".
    ``scores``: the result of ``bundle.evaluate``, shown in the card with counts and baselines.
    ``api``: a ``huggingface_hub.HfApi``; None makes one.

    The files are those of ``bundle.save``: they hold what decoding needs, such as the names of columns, categories and
    the ranges of numbers.  Paths of the machine are reduced to names.

    Raises BeelineError for a name that is not owner/name, before anything is written, and where there is no login, no
    permission or no network.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]

    try:
        require(name.count("/") == 1 and not name.startswith("hub:"), f"{name!r} has not one slash")
        validate_repo_id(name)
    except (HFValidationError, BeelineError) as error:
        raise BeelineError(
            f"{name!r} is no name on the hub ({error}); give owner/name, such as 'ada/digits', with letters, digits, "
            "'-', '_' and '.'"
        ) from None
    hub: HubApi = HfApi(token=token) if api is None else api  # type: ignore[assignment]
    with tempfile.TemporaryDirectory() as folder:
        publishable(bundle).save(folder)
        (Path(folder) / "README.md").write_text(card(bundle, name, license, scores), encoding="utf-8")
        with hub_errors(name):
            address = hub.create_repo(name, private=private, repo_type="model", exist_ok=True, token=token)
            hub.upload_folder(repo_id=name, folder_path=folder, repo_type="model", commit_message=message, token=token)
    return str(address)


@contextmanager
def hub_errors(name: str) -> Iterator[None]:
    """Errors of the hub and of the network as messages of what to do."""
    from huggingface_hub.errors import HfHubHTTPError, LocalTokenNotFoundError, OfflineModeIsEnabled

    try:
        yield
    except LocalTokenNotFoundError:
        raise BeelineError(
            f"{name} cannot be written without a login, and no token was found; run 'hf auth login', or give token="
        ) from None
    except OfflineModeIsEnabled:
        raise BeelineError(
            f"{name} cannot be written, because HF_HUB_OFFLINE is set; unset it, or write a directory by save()"
        ) from None
    except HfHubHTTPError as error:
        status = error.response.status_code if error.response is not None else 0
        if status in (401, 403):
            raise BeelineError(
                f"the hub refused to write {name} (status {status}): there is no login, or its token may not write "
                "there; run 'hf auth login' with a token of the scope 'write', and check the owner"
            ) from None
        raise BeelineError(
            f"the hub did not take {name} ({' '.join(str(error).split())[:200]}); try again, or save the bundle with "
            "save(directory)"
        ) from None
    except OSError as error:  # connections of the libraries for HTTP
        raise _unreachable(name, error) from None
    except Exception as error:
        if type(error).__module__.partition(".")[0] in HTTP:
            raise _unreachable(name, error) from None
        raise


def _unreachable(name: str, error: Exception) -> BeelineError:
    return BeelineError(
        f"{name} was not written, because the hub cannot be reached ({type(error).__name__}); check the network, or "
        "save the bundle with save(directory) and push it later"
    )


def publishable(bundle: Bundle) -> Bundle:
    """The bundle with the paths in its lineage reduced to names."""
    lineage: dict[str, Any] = _without_paths(bundle.lineage)
    return dataclasses.replace(bundle, lineage=lineage)


def _without_paths(part: Any) -> Any:
    if isinstance(part, Mapping):
        return {key: _without_paths(value) for key, value in part.items()}
    if isinstance(part, list | tuple):
        return [_without_paths(value) for value in part]
    if isinstance(part, str) and not part.startswith("hub:") and ("/" in part or "\\" in part):
        return part.replace("\\", "/").rstrip("/").rpartition("/")[2]
    return part


def card(bundle: Bundle, name: str, license: str | None = None, scores: Report | None = None) -> str:
    """The model card of a bundle: front matter of the hub, its facts, training, scores, and how to sample from it."""
    from huggingface_hub import ModelCard, ModelCardData

    from beeline import __version__

    modality, lineage = bundle.modality, publishable(bundle).lineage
    data = ModelCardData(
        license=license,
        library_name="beeline",
        tags=[*TAGS, *([] if modality is None else [type(modality).__name__.lower()])],
    )
    conditions = [] if modality is None else sorted(modality.conditions)
    quality = lineage.get("quality") or {}
    made = ModelCard.from_template(
        data,
        template_str=TEMPLATE.read_text(encoding="utf-8"),
        name=name,
        facts=bundle.facts(),
        data=_kind(lineage.get("data")),
        settings=settings(lineage),
        conditions=conditions,
        scores=[] if scores is None else rows(scores),
        provenance={} if scores is None else scores.provenance,
        quality={} if scores is not None or not quality else dict(list(quality.values())[-1]),
        version=__version__,
    )
    return str(made)


def export_card(bundle: Bundle, name: str, said: Mapping[str, Any], license: str | None = None) -> str:
    """The model card of an export; ``said`` holds what was written, by name."""
    from huggingface_hub import ModelCard, ModelCardData

    from beeline import __version__

    library = "diffusers" if "scheduler" in said else "onnx"
    modality, conditions = bundle.modality, {} if bundle.modality is None else dict(bundle.modality.conditions)
    labels = [spec["classes"] for spec in conditions.values() if "classes" in spec]
    made = ModelCard.from_template(
        ModelCardData(license=license, library_name=library, tags=list(TAGS)),
        template_str=EXPORT.read_text(encoding="utf-8"),
        name=name,
        facts={**bundle.facts(), **{k: str(v) for k, v in said.items()}},
        pipeline=said.get("pipeline"),
        transformer=said.get("transformer"),
        scheduler=said.get("scheduler"),
        graph=said.get("graph"),
        inputs=sorted(conditions),
        classes=labels[0] if labels else 0,
        shape=list(bundle.lineage.get("shape", ()) if modality is None else modality.shape),
        settings=settings(publishable(bundle).lineage),
        version=__version__,
    )
    return str(made)


def _kind(data: Any) -> str:
    """The class of a data set, without its settings, which may hold private values."""
    return str(data["is"]).rpartition(".")[2] if isinstance(data, Mapping) and "is" in data else ""


def settings(lineage: Mapping[str, Any]) -> dict[str, str]:
    """The plain entries of a lineage by name; its data are described elsewhere."""
    plain = {k: v for k, v in lineage.items() if isinstance(v, str | int | float) and v != ""}
    average = lineage.get("average")
    if isinstance(average, Mapping):
        how = ", ".join(f"{k} {v}" for k, v in average.items() if k not in ("is",))
        plain["average"] = f"{average['is']} ({how})" if how else str(average["is"])
    return {k.replace("_", " "): str(v) for k, v in plain.items()}


def rows(scores: Report) -> list[dict[str, str]]:
    """The scores as texts for the table of the card."""
    from beeline.evaluation.scores import figure, span

    return [
        {
            "name": s.name,
            "value": figure(s.value),
            "interval": span(s.interval),
            "baseline": figure(s.baseline),
            "better": s.better,
            "counts": f"{s.n_made} / {s.n_real}",
        }
        for s in scores.scores
    ]
