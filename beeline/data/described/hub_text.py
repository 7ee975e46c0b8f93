"""Frozen text encoders of the library transformers."""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from beeline.core.errors import BeelineError, extra, require
from beeline.core.modes import resolve_device
from beeline.core.ranges import Count, Whole, dataclass
from beeline.data.described.encoders import ConditionEncoderBase
from beeline.data.described.store import stored_texts

HUB = "hub:"  # before the id of a model of the Hugging Face hub
AT_ONCE = 64  # texts that pass through an encoder at once
POOLED = "pooled"


@dataclass(frozen=True)
class HubText(ConditionEncoderBase):
    """A frozen text encoder: CLIP, T5, or any encoder of transformers with a tokenizer.

    c_k = the last hidden state of token k, k < the number of tokens; zeros after them;  "pooled": the pooled output
    A text is cut to ``length`` tokens.  The empty text is the null: zeros alone.  Embeddings are kept in half precision
    in ``cache``, under a hash of weights, tokenizer, settings and text.
    Assumes weights in safetensors, as save_pretrained writes them; the encoder runs where there is an accelerator.
    Source: Radford et al. 2021 (arXiv 2103.00020), CLIP; Raffel et al. 2020 (arXiv 1910.10683), T5; as conditions of
    flows: Esser et al. 2024 (arXiv 2403.03206).

    >>> HubText("hub:openai/clip-vit-large-patch14", pooled=True).length
    77
    """

    name: str  # a folder, or hub:owner/name
    length: Count = 77  # most tokens of a text; 77 is all that CLIP takes, 128 to 512 are usual for T5
    pooled: bool = False  # give the pooled output too, as NAME.pooled; CLIP and BERT have one
    skip: Whole = 0  # layers at the end that are left out; 1 as in Stable Diffusion 3
    half: bool = False  # hold the weights in bfloat16, for encoders of many gigabytes
    revision: str | None = None  # branch, tag or commit of the hub
    subfolder: str | None = None  # of the encoder in a pipeline, such as text_encoder_2
    column: str = "text"  # of the metadata; captions beside the images are the column text
    cache: str | None = None  # folder for embeddings; None for beeline/texts in the cache folder of the user

    def __post_init__(self) -> None:
        local = not str(self.name).startswith(HUB)
        object.__setattr__(self, "name", str(Path(self.name).expanduser().resolve()) if local else self.name)

    @property
    def sizes(self) -> Mapping[str, Mapping[str, int]]:
        folder, subfolder = self._place
        about = settings_of(folder, subfolder)
        weight_files(folder / subfolder)
        text = about.text_config if "text_config" in about.to_dict() else about
        known = text.to_dict()
        most = known.get("max_position_embeddings", self.length)
        require(
            self.length <= most,
            f"HubText got length={self.length}, but {self.name} has positions for {most} tokens; set length={most} or "
            "less",
        )
        made: dict[str, dict[str, int]] = {"": {"length": self.length, "size": int(text.hidden_size)}}
        if self.pooled:
            projected = set(about.architectures or ()) & set(PROJECTED)
            made[POOLED] = {"size": int(text.projection_dim if projected else text.hidden_size), "null": 0}
        return made

    @torch.no_grad()
    def encode(self, values: Sequence[Any]) -> dict[str, Tensor]:
        texts = _texts(values)
        made = {name: torch.zeros(len(texts), *shape) for name, shape in self._shapes.items()}
        full = [i for i, text in enumerate(texts) if text]
        for start in range(0, len(full), AT_ONCE):
            rows = full[start : start + AT_ONCE]
            for name, leaf in self._embedded([texts[i] for i in rows]).items():
                # rounded as the stored embeddings are, so that a prompt is what the network was trained on
                made[name][torch.tensor(rows)] = leaf.cpu().half().float()
        return made

    def stored(self, values: Sequence[Any]) -> Callable[[Tensor], dict[str, Tensor]]:
        key = json.dumps([self.digest(), self.length, self.pooled, self.skip, self.half])
        return stored_texts(_texts(values), self.encode, self._shapes, key, self.cache, f"texts by {self.name}")

    def digest(self) -> str:
        folder, subfolder = self._place
        files = [*weight_files(folder / subfolder), folder / subfolder / "config.json"]
        files += tokenizer_files(tokenizer_folder(folder, subfolder))
        return _hash_of(tuple((str(f), f.stat().st_size, f.stat().st_mtime_ns) for f in files))

    @property
    def _place(self) -> tuple[Path, str]:
        return located(self.name, self.revision), self.subfolder or ""

    @property
    def _shapes(self) -> dict[str, tuple[int, ...]]:
        sizes = self.sizes
        return {name: tuple(spec[k] for k in ("length", "size") if k in spec) for name, spec in sizes.items()}

    def _embedded(self, texts: list[str]) -> dict[str, Tensor]:
        """The embeddings of texts that are not empty."""
        net, tokenizer, pools = _loaded(*self._place, self.half)
        where = resolve_device()
        given = tokenizer(texts, padding="max_length", truncation=True, max_length=self.length, return_tensors="pt")
        ids, mask = (given[name].to(where) for name in ("input_ids", "attention_mask"))
        out = net.to(where)(input_ids=ids, attention_mask=mask, output_hidden_states=bool(self.skip))
        hidden = out.hidden_states[-1 - self.skip] if self.skip else out.last_hidden_state
        made = {"": hidden.float() * mask[..., None]}
        if self.pooled:
            pooled = next((out[name] for name in ("text_embeds", "pooler_output") if out.get(name) is not None), None)
            require(
                pooled is not None and pools,
                f"HubText got pooled=True, and {type(net).__name__} of {self.name} has no pooled output; leave it out, "
                "or take an encoder of CLIP",
            )
            assert pooled is not None
            made[POOLED] = pooled.float()
        return made


def _texts(values: Sequence[Any]) -> list[str]:
    """Texts without surrounding space; "" where there is none."""
    for i, value in enumerate(values):
        require(
            value is None or isinstance(value, str),
            f"the text of row {i} is {type(value).__name__}; a caption or prompt is text: give a str, or None for none",
        )
    return [(value or "").strip() for value in values]


# ----------------------------------------------------------------------------------------------------- loading of files

PROJECTED: Mapping[str, Callable[[Any], Any]] = {
    "CLIPTextModelWithProjection": lambda library: library.CLIPTextModelWithProjection
}
"""The classes of encoders whose pooled output is projected, by the architecture in their config.json."""

CLASSES: Mapping[str, Callable[[Any], Any]] = {
    "clip": lambda library: library.CLIPTextModel,
    "clip_text_model": lambda library: library.CLIPTextModel,
    "t5": lambda library: library.T5EncoderModel,
    "mt5": lambda library: library.MT5EncoderModel,
    "umt5": lambda library: library.UMT5EncoderModel,
}
"""The class of the text encoder in models that hold more, by the kind of model; AutoModel for the others."""

WEIGHTS, SHARDS = "model.safetensors", "model.safetensors.index.json"
NAMES = ("tokenizer*", "vocab*", "merges*", "spiece*", "sentencepiece*", "special_tokens*", "added_tokens*")


def located(name: str, revision: str | None) -> Path:
    """The folder of a model: itself, or that of the hub's cache; it is downloaded where there is a network."""
    if not name.startswith(HUB):
        require(
            Path(name).is_dir(),
            f"the text encoder {name} is not on disk; it is a folder that save_pretrained wrote, with its tokenizer, "
            "or hub:owner/name: give one of them, or leave texts out with data.conditions=none",
        )
        return Path(name)
    return _downloaded(name.removeprefix(HUB), revision)


@functools.lru_cache(maxsize=8)
def _downloaded(name: str, revision: str | None) -> Path:
    from huggingface_hub import snapshot_download

    wanted = [f"{at}{file}" for at in ("", "*/") for file in (*NAMES, "config.json", "model*.safetensors", SHARDS)]
    try:
        return Path(snapshot_download(name, revision=revision, allow_patterns=wanted))
    except (OSError, ValueError) as error:  # of the network, of the hub and of the cache
        raise BeelineError(
            f"the text encoder hub:{name} is not on disk, and the hub did not give it ({type(error).__name__}); check "
            "the name and the network, or save it with save_pretrained on a machine that has one and give the folder; "
            "data.conditions=none leaves texts out"
        ) from None


def weight_files(folder: Path) -> list[Path]:
    """The files of the weights in a folder; BeelineError where there are none in safetensors."""
    if (folder / WEIGHTS).is_file():
        return [folder / WEIGHTS]
    require(
        (folder / SHARDS).is_file(),
        f"{folder} holds no {WEIGHTS}, so it is no text encoder in safetensors; give the folder that save_pretrained "
        "wrote, or subfolder= in a pipeline (pickled weights are not read)",
    )
    names = json.loads((folder / SHARDS).read_text(encoding="utf-8")).get("weight_map", {})
    return [folder / Path(name).name for name in sorted(set(names.values()))]


def tokenizer_folder(folder: Path, subfolder: str) -> Path:
    """The folder of the tokenizer: in a pipeline tokenizer_2 for text_encoder_2, else that of the encoder."""
    beside = folder / subfolder.replace("text_encoder", "tokenizer")
    return beside if tokenizer_files(beside) else folder / subfolder


def tokenizer_files(folder: Path) -> list[Path]:
    return sorted({file for pattern in NAMES for file in folder.glob(pattern) if file.is_file()})


@functools.lru_cache(maxsize=8)
def _hash_of(files: tuple[tuple[str, int, int], ...]) -> str:
    """A hash of the names and contents of files, given with their sizes and times."""
    total = hashlib.sha256()
    for path, size, _ in files:
        total.update(f"{Path(path).name}:{size}\0".encode())
        with open(path, "rb") as file:
            while block := file.read(1 << 20):
                total.update(block)
    return total.hexdigest()[:32]


@functools.lru_cache(maxsize=8)
def settings_of(folder: Path, subfolder: str) -> Any:
    """The configuration of a model."""
    library = extra("transformers", "encoders")
    try:
        return library.AutoConfig.from_pretrained(folder / subfolder, local_files_only=True)
    except (OSError, ValueError, KeyError) as error:
        raise BeelineError(
            f"{folder / subfolder} holds no model that transformers knows ({type(error).__name__}); give the folder "
            "of a text encoder with config.json, or subfolder= in a pipeline"
        ) from None


@functools.lru_cache(maxsize=4)
def _loaded(folder: Path, subfolder: str, half: bool) -> tuple[Any, Any, bool]:
    """(frozen encoder, tokenizer, whether a pooled output would be trained) of a folder."""
    library, about = extra("transformers", "encoders"), settings_of(folder, subfolder)
    weight_files(folder / subfolder)
    named = next((PROJECTED[name] for name in about.architectures or () if name in PROJECTED), None)
    known = named or CLASSES.get(about.model_type)
    require(
        known is not None or not about.is_encoder_decoder,
        f"{folder} is a {about.model_type} with a decoder, of which no text encoder is known; give the encoder alone, "
        "or one of CLIP, T5 or BERT",
    )
    cls = library.AutoModel if known is None else known(library)
    at, words = folder / subfolder, tokenizer_folder(folder, subfolder)
    verbosity, bars = library.logging.get_verbosity(), library.logging.is_progress_bar_enabled()
    library.logging.set_verbosity_error()  # the weights of a decoder or a vision model in the same file are not needed
    library.logging.disable_progress_bar()
    try:
        tokenizer = library.AutoTokenizer.from_pretrained(words, local_files_only=True)
        net, report = cls.from_pretrained(
            at,
            local_files_only=True,
            use_safetensors=True,
            output_loading_info=True,
            dtype=torch.bfloat16 if half else torch.float32,
        )
    except (OSError, ValueError, KeyError, TypeError, RuntimeError, ImportError) as error:
        raise BeelineError(
            f"{at} gave no text encoder with a tokenizer ({type(error).__name__}: {str(error).splitlines()[0][:200]}); "
            "give the folder that save_pretrained of both wrote, or subfolder= in a pipeline"
        ) from None
    finally:
        library.logging.set_verbosity(verbosity)
        if bars:
            library.logging.enable_progress_bar()
    pools = not any(key.startswith("pooler.") for key in report["missing_keys"])
    lost = sorted(key for key in report["missing_keys"] if not key.startswith("pooler."))
    require(
        not lost,
        f"{at} has no weights for {', '.join(lost[:3])} ({len(lost)} in all) of {cls.__name__}, which would be "
        "random; give a complete text encoder",
    )
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    tokenizer.padding_side = "right"  # padding follows the tokens of a text
    return net.eval().requires_grad_(False), tokenizer, pools
