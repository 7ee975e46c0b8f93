"""Edits that share the attention of the way back with the way forth."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import field, replace

from torch import Tensor

from beeline.core.protocols.editing import Inversion
from beeline.core.ranges import Early, Whole, dataclass
from beeline.core.rng import Rng
from beeline.core.types import Cond
from beeline.fields.flow import Flow
from beeline.networks.attending.blocks import with_attention
from beeline.networks.attending.mode import ImageAttention
from beeline.networks.attending.taps import Store, bytes_of_rows, chosen_blocks
from beeline.sampling.editing.attention.parts import EARLIER, end_of_steps, evaluation_times, with_image
from beeline.sampling.editing.inversions import Backwards
from beeline.sampling.editing.resampled import InvertAndSample
from beeline.sampling.sampler import Sampler

OWN, SOURCE = (1.0, 0.0), (0.0, 1.0)


@dataclass(frozen=True)
class SharedValues:
    """Inverts, and samples with the values of attention of the inversion in the first steps (RF-Edit, FireFlow).

    v <- a v + b v_source in the attention of some blocks, with (a, b) = ``values``; queries and keys alike
    The entry of the nearest time of the inversion is used, so that stages of steps match.  (0, 1) replaces, (1, b)
    adds, (1, 0) leaves as it is.  In joint attention the tokens of the text are part of it, as released, unless
    ``image_only`` is set.  Queries and keys are stored and used as they enter attention, with their positions.
    Assumes a network that declares the tokens of an image, and memory for ``steps`` times the blocks.
    Source: Wang et al. 2024, "Taming Rectified Flow for Inversion and Editing" (arXiv 2411.04746); Deng et al. 2024,
    "FireFlow" (arXiv 2412.07517), with ``MidpointReuse``.

    >>> SharedValues(steps=1).values
    (0.0, 1.0)
    """

    steps: Whole = 2  # from the noise, in which attention is shared; 0 is InvertAndSample
    values: tuple[float, float] = SOURCE  # weights of the own ones and of those of the source
    keys: tuple[float, float] = OWN
    queries: tuple[float, float] = OWN
    image_only: bool = False  # leave the tokens of a text as they are
    blocks: tuple[str, ...] = ()  # names, as "block.1"; none are those of ``depth``
    depth: tuple[float, float] = (0.5, 1.0)  # interval of the depth: the last half
    inversion: Inversion = field(default_factory=Backwards)
    start: Early = 0.0  # time of the state between; later ones keep more of the data
    cpu: bool = False  # keep what is stored in the memory of the CPU

    def __call__(self, flow: Flow, x: Tensor, cond: Cond, new_cond: Cond, sampler: Sampler, rng: Rng) -> Tensor:
        names = chosen_blocks(flow.field, self.blocks, self.depth)
        until = end_of_steps(sampler, self.start, self.steps) + EARLIER
        if self.steps == 0 or not self._weights:
            return InvertAndSample(self.inversion, self.start)(flow, x, cond, new_cond, sampler, rng)
        with Store(len(x), self.cpu) as store:
            times = {t for t in evaluation_times(sampler, 1.0, self.start) if t <= until}
            store.reserve(len(times) * bytes_of_rows(flow.field, names, x, cond, self._shared), x.device)

            def record(a: ImageAttention) -> Tensor:
                if a.time <= until:
                    store.put(a, **self._shared(a))
                return a.softmax()

            def share(a: ImageAttention) -> Tensor:
                found = store.nearest(a) if a.time < until - 2 * EARLIER else None
                return a.softmax() if found is None else self._mixed(a, found).softmax()

            recorded, sharing = (with_attention(flow.field, names, act) for act in (record, share))
            state = self.inversion(replace(flow, field=recorded), x, cond, sampler, rng, self.start)
            return sampler(replace(flow, field=sharing), state.x, new_cond, start=state.t)

    @property
    def _weights(self) -> dict[str, tuple[float, float]]:
        """The weights of what is shared."""
        every = {"q": self.queries, "k": self.keys, "v": self.values}
        return {name: weights for name, weights in every.items() if tuple(weights) != OWN}

    def _shared(self, a: ImageAttention) -> Mapping[str, Tensor]:
        every = {"q": a.q, "k": a.k, "v": a.v}
        return {name: every[name] for name in self._weights}

    def _mixed(self, a: ImageAttention, found: Mapping[str, Tensor]) -> ImageAttention:
        """The attention with the parts of the source."""
        made: dict[str, Tensor] = {}
        for name, own in self._shared(a).items():
            of_own, of_source = self._weights[name]
            mixed = of_own * own + of_source * found[name]
            made[name] = with_image(own, a, mixed) if self.image_only else mixed
        return replace(a, **made)  # type: ignore[arg-type]
