"""What is done with a bundle beside sampling."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from beeline.config import build as config
from beeline.sampling.sampler import Sampler

if TYPE_CHECKING:  # imported where it is used: these modules work on bundles
    from beeline.core.protocols.editing import Edit, Inversion
    from beeline.core.protocols.steering import Controller
    from beeline.evaluation.scores import Report
    from beeline.runs.bundle import Bundle
    from beeline.runs.editing.edit import Edited
    from beeline.runs.editing.front import Front, Success
    from beeline.runs.editing.invert import Inverted
    from beeline.runs.solving.solve import Solution
    from beeline.runs.solving.tasks import Task


class Uses:
    """The methods of a bundle for inverse problems, edits, scores, students and the hub."""

    def solve(
        self,
        task: Task | str,
        given: Any,
        *,
        draws: int = 1,
        noise: float | None = None,
        cond: Any = None,
        seed: int = 0,
        sampler: Sampler | None = None,
        controller: Callable[[Any], Controller] | None = None,
    ) -> Solution:
        """Data sampled given what was observed of them: a task such as "inpaint" or Upscale(), and incomplete data.

        ``given``: a file, or data in the user's own form, with NaN, empty cells or transparent pixels where something
        is missing.  ``draws``: samples for every datum, whose deviation says how certain they are.
        ``noise``: standard deviation of the noise of the measurement in the units of encoded data (1 is half the range
        of pixels); by default what was observed is kept exactly where the task fills a part.
        ``controller``: one for linear problems, such as MomentMatching (the default), PseudoInverse or Pull.

        Raises BeelineError for data that do not fit the task, for an unknown task, and for ``noise`` or
        ``controller`` with tables and sequences of symbols, which keep what is known.
        """
        from beeline.runs.solving.solve import Settings, solve

        made = config.parse(task, "tasks") if isinstance(task, str) else task
        how = Settings(draws, noise, cond, seed, sampler or cast("Bundle", self).sampler, controller)
        return solve(cast("Bundle", self), made, given, how)

    def edit(
        self,
        method: Edit | str,
        given: Any,
        *,
        to: Any,
        cond: Any = None,
        region: Any = None,
        preserve: float | None = None,
        seed: int = 0,
        sampler: Sampler | None = None,
    ) -> Edited:
        """Data changed from the condition ``cond`` to the condition ``to`` by an edit such as "FlowEdit".

        ``given``: a file, or data in the user's own form.  ``cond`` is None for the learned null.
        ``region``: where the data may change: weights in [0, 1] of the size of a datum, or a region such as
        ``editing.GivenRegion(mask)``.  ``preserve``: the largest mean distance outside the region (without a region, of
        the whole datum), in the range of pixels or in standard deviations of the training data.
        Equal conditions return the data unchanged.

        Raises BeelineError for a bundle without conditions, data that do not fit it, a region of another shape or an
        empty one, a method that does not fit the network, and for edits that exceed ``preserve``.
        """
        from beeline.runs.editing.edit import Settings, edit
        from beeline.sampling.editing.regions import GivenRegion

        made = config.parse(method, "edits") if isinstance(method, str) else method
        where = region if region is None or callable(region) else GivenRegion(region)
        return edit(
            cast("Bundle", self),
            made,
            given,
            cond,
            to,
            Settings(where, preserve, seed, sampler or cast("Bundle", self).sampler),
        )

    def invert(
        self,
        given: Any,
        cond: Any = None,
        *,
        inversion: Inversion | str = "Backwards",
        end: float = 0.0,
        seed: int = 0,
        sampler: Sampler | None = None,
    ) -> Inverted:
        """The noise from which the flow leads to given data under a condition, and how exactly it gives them back.

        ``given``: a file, or data in the user's own form.  ``cond`` is None for the learned null, under which data
        without a known condition are inverted.  ``inversion``: such as "Backwards", "Controlled(gamma=0.5)" or
        "NoisedThenBackwards"; it has no guidance unless it is given one, since guidance makes the inverse less exact.
        ``end``: the time of the states; 0 is noise.
        The result has ``noise`` [N,*S], ``samples``, the data that come back, and ``error`` [N], their mean absolute
        difference in the range of pixels or in standard deviations of the training data.

        Raises BeelineError for data that do not fit the bundle, for a student, and for a solver that adds noise.
        """
        from beeline.runs.editing.invert import invert

        made = config.parse(inversion, "inversions") if isinstance(inversion, str) else inversion
        bundle = cast("Bundle", self)
        return invert(bundle, made, given, cond, sampler or bundle.sampler, seed, end)

    def edit_front(
        self,
        method: Edit | str | Sequence[str],
        given: Any,
        *,
        to: Any,
        cond: Any = None,
        setting: str = "start",
        values: Sequence[Any] = (0.1, 0.3, 0.5, 0.7, 0.9),
        region: Any = None,
        success: Success | None = None,
        seed: int = 0,
        sampler: Sampler | None = None,
    ) -> Front:
        """The trade between change and preservation of one or several edits, over the values of a setting.

        ``setting``: its name in the edit, such as "start" or "inversion.guidance".  ``success``: edited data in the
        user's form -> how well each fits ``to`` [N], larger is better, such as the verdict of a classifier; without it
        the change is the distance inside the region.  The other arguments are those of ``edit``.
        The result has ``points``, ``best`` (the Pareto front), ``rows`` and ``plot(path)``.

        Raises BeelineError for what ``edit`` refuses, and for an unknown setting.
        """
        from beeline.runs.editing.edit import Settings
        from beeline.runs.editing.front import front
        from beeline.sampling.editing.regions import GivenRegion

        names = [method] if isinstance(method, str) or callable(method) else list(method)
        made = {
            m if isinstance(m, str) else type(m).__name__: config.parse(m, "edits") if isinstance(m, str) else m
            for m in names
        }
        where = region if region is None or callable(region) else GivenRegion(region)
        how = Settings(where, None, seed, sampler or cast("Bundle", self).sampler)
        return front(cast("Bundle", self), made, setting, values, given, cond, to, how, success)

    def evaluate(
        self,
        X_test: Any = None,
        y_test: Any = None,
        *,
        n: int | None = None,
        features: Any = None,
        seed: int = 0,
        sampler: Sampler | None = None,
        name: str = "",
    ) -> Report:
        """Scores of ``n`` samples against real data, with intervals, counts and real-vs-real baselines.

        ``X_test``: an array, a tensor or a data frame, all of which is used; the path of a file, a recipe or a data set
        by name, of which the held-out part is used, as ``beeline evaluate`` does; by default the training data, of
        which the held-out part is used.
        ``y_test``: labels [N] beside an array, as in training.
        ``n``: number of samples; by default 500, or as many as the Frechet distance in ``features`` needs.
        ``features``: "inception", "dinov2", "clip", "classifier", the directory of a bundle or of a vision model, or
        features of ``beeline.metrics``, in which samples are compared, as ``beeline evaluate --features`` does.

        Raises BeelineError for data of another kind, shape or other columns than those of the flow.
        """
        import beeline  # features may be those of a bundle
        from beeline.runs.reference_data import evaluated

        if isinstance(features, str | Path):
            features = beeline.features_named(str(features), cast("Bundle", self).modality)
        return evaluated(cast("Bundle", self), X_test, y_test, n, seed, sampler, name, features)

    def distill(self, method: Any = "one-step", *, out: str | Path | None = None, **settings: Any) -> Bundle:
        """A student of this flow that samples in fewer evaluations; ``beeline.distill`` with this teacher."""
        import beeline  # the function is in a higher layer: it trains a run

        return beeline.distill(cast("Bundle", self), method, out=out, **settings)

    def push_to_hub(self, name: str, **settings: Any) -> str:
        """Upload the bundle with a model card to ``owner/name`` of the Hugging Face hub; returns its address.

        ``settings`` are those of ``beeline.runs.publishing.push``: ``private``, ``token``, ``license``, ``message``,
        ``scores``.  It loads again by ``beeline.load("hub:owner/name")``.
        """
        from beeline.runs.publishing import push

        return push(cast("Bundle", self), name, **settings)

    def subnetwork(
        self,
        width: float = 1.0,
        visits: Sequence[int] | None = None,
        own: bool = False,
        feeds: Sequence[float] | None = None,
    ) -> Bundle:
        """The bundle with a part of its network: the first heads and hidden channels, and some of its blocks.

        For networks trained with the objective ``Elastic``.  ``visits``: numbers of the blocks that are evaluated, from
        0; None for all.  ``feeds``: the share of the hidden channels, one for all blocks or one for each; None for
        ``width``.  With ``own`` the bundle holds the weights of that part alone, which is smaller and faster.
        """
        from beeline.networks.transformer.plans.elastic import SubNetwork, extracted

        bundle = cast("Bundle", self)
        field = bundle.flow.field
        net = extracted(field, width, visits, feeds) if own else SubNetwork(field, width, visits, feeds=feeds)
        return replace(bundle, flow=replace(bundle.flow, field=net), weights="")
