"""What the generation of pairs takes."""

from __future__ import annotations

from dataclasses import dataclass

from beeline.training.memory import size


@dataclass(frozen=True)
class PairPlan:
    """What the pairs that are missing take: bytes on disk and in memory, and seconds of one process."""

    pairs: int
    shards: int
    disk: int  # bytes
    free: int  # bytes on the disk
    memory: int  # bytes of one process
    seconds: float | None  # None where it was not measured
    sampler: str = ""

    def lines(self) -> list[str]:
        """The plan as lines of text."""
        if not self.pairs:
            return ["all pairs are there"]
        text = "not measured" if self.seconds is None else _duration(self.seconds) + " in one process"
        return [
            f"pairs     {self.pairs:,} in {self.shards:,} shards, {self.sampler}",
            f"disk      {size(self.disk)}, of which {size(self.free)} are free",
            f"memory    {size(self.memory)} in every process",
            f"time      {text}",
        ]


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"about {seconds:.3g} s"
    return f"about {seconds / 60:.0f} min" if seconds < 7200 else f"about {seconds / 3600:.1f} h"
