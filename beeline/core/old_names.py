"""Names that earlier formats of files used, and their translation into the names of today.

Descriptions (``flow.json``, ``run.yaml``) name a component as ``kind.Name``; the settings in a checkpoint name its
class alone.  Whoever renames a catalogued component or one of its settings adds the old name here.  Everything here is
plain data and pure functions of plain data.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from beeline.core.errors import BeelineError

FORMAT = 3
"""The format of descriptions and of the settings in checkpoints; 1 and 2 are those of the first version."""

KINDS: Mapping[str, str] = {
    "engines": "parallel",
    "laws": "distributions",
    "optimisers": "optimizers",
    "patiences": "early_stopping",
    "prunings": "data_pruning",
    "rates": "lr_schedules",
}
"""Old kind -> kind."""

COMPONENTS: Mapping[str, str] = {
    "averages.Even": "averages.UniformAverage",
    "averages.Power": "averages.PowerEMA",
    "couplings.Matched": "couplings.PairedOrOT",
    "data.Between": "data.PairedDataset",
    "data.LawData": "data.DistributionData",
    "data.SymbolFile": "data.SequenceFile",
    "distances.Felt": "distances.FeatureWeighted",
    "fits.Aligned": "fits.AlignedSteps",
    "latents.Brownian": "latents.BrownianBridge",
    "metrics.Grams": "metrics.NGramDivergence",
    "modalities.Symbols": "modalities.Sequences",
    "networks.Accelerating": "networks.SecondOrder",
    "networks.Posterior": "networks.PosteriorNetwork",
    "parallel.Alone": "parallel.SingleDevice",
    "parallel.Replicated": "parallel.DDP",
    "parallel.Sharded": "parallel.FSDP",
    "early_stopping.Patience": "early_stopping.EarlyStopping",
    "data_pruning.Pruning": "data_pruning.DataPruning",
    "recipes.symbols": "recipes.sequences",
    "solvers.Jump": "solvers.FlowMapStep",
    "sources.Even": "sources.UniformOnSpace",
    "sources.FromData": "sources.DatasetSource",
    "weights.Power": "weights.PowerWeight",
}
"""Old component -> component, both with the kind of today."""

SETTINGS: Mapping[str, Mapping[str, str]] = {
    "data.DistributionData": {"law": "distribution"},
    "data.TableFile": {"without": "exclude"},
    "data.TableStream": {"without": "exclude"},
    "early_stopping.EarlyStopping": {"looks": "patience", "least": "min_delta"},
    "features.SmallClassifier": {"rate": "lr"},
    "fits.Bespoke": {"rate": "lr"},
    "fits.Searched": {"rate": "lr"},
    "optimizers.AdamW": {"decay": "weight_decay"},
    "optimizers.Muon": {"decay": "weight_decay"},
    "optimizers.Prodigy": {"decay": "weight_decay"},
    "optimizers.ScheduleFree": {"decay": "weight_decay"},
    "training.Training": {
        "keep_every": "checkpoint_every",
        "keep_last": "checkpoint_keep",
        "optimiser": "optimizer",
        "patience": "early_stopping",
        "prune": "data_pruning",
        "rate": "lr",
        "retreat": "max_recoveries",
    },
}
"""Component -> its old settings -> their names."""

CLASSES: Mapping[str, Mapping[str, str]] = {
    "Even": {"space": "UniformOnSpace", "start": "UniformAverage"},
    "Power": {"cap": "PowerWeight", "length": "PowerEMA"},
    "Brownian": {"scale": "BrownianBridge"},
    "Aligned": {"candidates": "AlignedSteps"},
    "FromLaw": {"": "FromDistribution"},
    "Lots": {"": "TableMicrobatches"},
    "StreamLots": {"": "StreamMicrobatches"},
}
"""Old class, where the name alone does not decide -> a setting that only the one meant has -> its name."""

STATE: Mapping[str, str] = {"optimisers": "optimizers"}
"""Old entry of the state of a checkpoint -> its name."""

GROUPS: Mapping[str, str] = {"optimiser": "optimizer"}
"""Last part of the name of a group of tensors in a checkpoint, old -> new."""


def translate(data: Any) -> Any:
    """A description of an earlier format in the names of today; what is up to date stays as it is.

    >>> translate({"is": "training.Training", "lots": 2, "lot": 16, "rate": {"is": "rates.Constant", "peak": 0.1}})
    {'is': 'training.Training', 'lr': {'is': 'lr_schedules.Constant', 'peak': 0.1}, 'batch_size': 32, 'microbatches': 2}
    """
    return _translated(data, _component)


def translate_settings(data: Any) -> Any:
    """The settings in a checkpoint, which name classes without their kind, in the names of today.

    >>> translate_settings({"is": "Power", "length": 0.1})
    {'is': 'PowerEMA', 'length': 0.1}
    """
    return _translated(data, _class)


def translate_state(state: Mapping[str, Any], file: object = "state.json") -> dict[str, Any]:
    """The plain data of a checkpoint in the names of today; ValueError where a newer version wrote them.

    >>> translate_state({"optimisers": {}, "settings": {"is": "Patience", "looks": 5}})["settings"]
    {'is': 'EarlyStopping', 'patience': 5}
    """
    if check_format(state.get("format", 1), file) == FORMAT:
        return dict(state)
    new = {STATE.get(key, key): value for key, value in state.items()} | {"format": FORMAT}
    new |= {key: translate_settings(new[key]) for key in ("settings", "profiles") if key in new}
    return new | ({"groups": [translate_group(group) for group in new["groups"]]} if "groups" in new else {})


def translate_group(key: str) -> str:
    """The name of a tensor in a checkpoint, "group/name", or of a group, in the names of today.

    >>> translate_group("network.optimiser/weight/mean")
    'network.optimizer/weight/mean'
    """
    group, slash, rest = key.partition("/")
    owner, dot, last = group.rpartition(".")
    return f"{owner}{dot}{GROUPS.get(last, last) if dot else last}{slash}{rest}"


def check_format(found: Any, file: object) -> int:
    """The format of a file as a number; ValueError for one that this version cannot read.

    >>> check_format(2, "flow.json")
    2
    """
    if isinstance(found, int) and not isinstance(found, bool) and 1 <= found <= FORMAT:
        return found
    newer = isinstance(found, int | float) and not isinstance(found, bool) and found > FORMAT
    raise BeelineError(
        f"{file} has format {str(found)[:40]}, but this version of Beeline reads 1 to {FORMAT}; "
        + ("update Beeline" if newer else "restore the file from a copy")
        + ", or save it again with the version that wrote it"
    )


def _translated(data: Any, renamed: Callable[[str, Mapping[str, Any]], tuple[str, str]]) -> Any:
    if isinstance(data, list | tuple):
        return [_translated(item, renamed) for item in data]
    if not isinstance(data, Mapping):
        return data
    given = {key: _translated(value, renamed) for key, value in data.items()}
    if not isinstance(given.get("is"), str):
        return given
    name, full = renamed(given["is"], given)
    old = SETTINGS.get(full, {})
    new = {old.get(key, key): value for key, value in given.items()} | {"is": name}
    change = CHANGES.get(full)
    return new if change is None else change(new)


def _component(name: str, given: Mapping[str, Any]) -> tuple[str, str]:
    kind, dot, short = name.rpartition(".")
    full = f"{KINDS.get(kind, kind)}{dot}{short}"
    full = COMPONENTS.get(full, full)
    return full, full


def _class(name: str, given: Mapping[str, Any]) -> tuple[str, str]:
    unsure = CLASSES.get(name)
    if unsure is not None:
        new = next((new for setting, new in unsure.items() if not setting or setting in given), name)
    else:
        new = _SHORT.get(name, name)
    return new, _FULL.get(new, new)


def _training(given: dict[str, Any]) -> dict[str, Any]:
    """``lots`` portions of ``lot`` data became a batch of ``microbatches`` parts."""
    if "lots" not in given and "lot" not in given:
        return given
    lots, lot = given.pop("lots", 1), given.pop("lot", 128)
    return given | {"batch_size": lots * lot, "microbatches": lots}


def _table(setting: str) -> Callable[[dict[str, Any]], dict[str, Any]]:
    """Columns by name, in a setting of a table or of the file of one."""

    def change(given: dict[str, Any]) -> dict[str, Any]:
        columns = given.get(setting)
        return given if not isinstance(columns, Mapping) else given | {setting: translate_columns(columns)}

    return change


def translate_columns(columns: Mapping[str, Any]) -> dict[str, Any]:
    """Columns of a schema in the names of today.

    >>> translate_columns({"when": {"kind": "moment", "marker": "?"}})
    {'when': {'kind': 'datetime', 'na_token': '?'}}
    """
    return {name: _column(given) if isinstance(given, Mapping) else given for name, given in columns.items()}


def _column(given: Mapping[str, Any]) -> dict[str, Any]:
    new = {COLUMN.get(key, key): value for key, value in given.items()}
    kind = new.get("kind")
    return new | {"kind": COLUMN_KINDS[kind]} if isinstance(kind, str) and kind in COLUMN_KINDS else new


COLUMN: Mapping[str, str] = {"marker": "na_token"}
"""Old setting of a column of a table -> its name."""

COLUMN_KINDS: Mapping[str, str] = {"moment": "datetime"}
"""Old kind of a column of a table -> its name."""

CHANGES: Mapping[str, Callable[[dict[str, Any]], dict[str, Any]]] = {
    "training.Training": _training,
    "modalities.Table": _table("schema"),
    "data.TableFile": _table("corrections"),
    "data.TableStream": _table("corrections"),
}
"""Component -> what else its settings have become, after their names were translated."""

_SHORT = {old.partition(".")[2]: new.partition(".")[2] for old, new in COMPONENTS.items()}
_FULL = {full.partition(".")[2]: full for full in (*COMPONENTS.values(), *SETTINGS, *CHANGES)}
