"""MLflow."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from beeline.core.errors import extra
from beeline.core.protocols.training import TrackedRun
from beeline.core.ranges import Count, dataclass


@dataclass(frozen=True)
class MLflow:
    """MLflow.

    metrics, previews as artifacts, settings as parameters, messages as tags, and final scores as metrics
    Without ``uri`` the variable MLFLOW_TRACKING_URI or the default of MLflow is used.  A resumed run continues the same
    run of the server.

    >>> MLflow("http://localhost:5000", experiment="digits").every
    10
    """

    uri: str | None = None  # of the tracking server, database or folder
    experiment: str = "beeline"
    every: Count = 10  # steps between two entries

    def check(self) -> None:
        extra("mlflow", "trackers")

    def open(self, run: TrackedRun) -> MLflowRun:
        tracking, entities = extra("mlflow.tracking", "trackers"), extra("mlflow.entities", "trackers")
        client = tracking.MlflowClient(tracking_uri=self.uri)
        if run.identity is not None:
            client.update_run(run.identity, status="RUNNING")
            return MLflowRun(client, entities, run.identity)
        found = client.get_experiment_by_name(self.experiment)
        experiment = client.create_experiment(self.experiment) if found is None else found.experiment_id
        made = client.create_run(experiment, run_name=run.name)
        settings = [entities.Param(name, str(value)[:LONGEST]) for name, value in flat(run.settings)]
        for first in range(0, len(settings), MOST):
            client.log_batch(made.info.run_id, params=settings[first : first + MOST])
        return MLflowRun(client, entities, made.info.run_id)


LONGEST = 6000  # characters of a parameter that every server takes
MOST = 100  # parameters of one call


def flat(settings: Mapping[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    """Settings by dotted names.

    >>> flat({"training": {"steps": 5}, "seed": 0})
    [('training.steps', 5), ('seed', 0)]
    """
    found: list[tuple[str, Any]] = []
    for key, value in settings.items():
        found += flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else [(f"{prefix}{key}", value)]
    return found


class MLflowRun:
    """An open run of the server."""

    def __init__(self, client: Any, entities: Any, identity: str):
        self._client, self._entities, self._id = client, entities, identity

    @property
    def identity(self) -> str | None:
        return self._id

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        now = int(1000 * time.time())
        self._client.log_batch(self._id, metrics=[self._entities.Metric(k, v, now, step) for k, v in values.items()])

    def preview(self, name: str, file: Path, step: int) -> None:
        self._client.log_artifact(self._id, str(file), name)

    def text(self, text: str, step: int) -> None:
        self._client.set_tag(self._id, f"message.{step}", text[:LONGEST])

    def scores(self, values: Mapping[str, float]) -> None:
        self.scalars(values, 0)

    def close(self) -> None:
        self._client.set_terminated(self._id)
