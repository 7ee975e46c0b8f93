"""A run that is killed and continued with another number of processes, twice: the numbers of one process."""

from pathlib import Path

import pytest
import torch

from benchmarks.claims import c060

pytestmark = pytest.mark.engine


def numbers(folder: Path, world: int) -> list[str]:
    return sorted(line for file in folder.glob(f"numbers-{world}-*.txt") for line in file.read_text().split())


@pytest.mark.slow
def test_four_then_two_then_three_processes_have_the_losses_and_random_numbers_of_one(tmp_path: Path) -> None:
    found = c060.runs(tmp_path, 3, "chain", "one")
    for what, count in (("weights", -1), ("loss", 8)):  # the last part has the losses of steps 17 to 24
        one, chain = (torch.tensor(found[name][what][-count if count > 0 else 0 :]) for name in ("one", "chain"))
        assert one.shape == chain.shape and (one - chain).abs().max() <= 1e-6, what
    single = (tmp_path / "one" / "numbers-1-0.txt").read_text().split()
    assert len(single) == len(set(single)) == 24 * 12
    for world, first, steps in ((4, 0, 10), (2, 8, 9), (3, 16, 8)):  # from the checkpoints at 8 and 16
        known = sorted(single[12 * first : 12 * (first + steps)])
        assert numbers(tmp_path / "chain", world) == known, f"{world} processes"
