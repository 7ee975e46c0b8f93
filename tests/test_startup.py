"""What starts without torch: help and the list of components."""

import subprocess
import sys

import pytest


@pytest.mark.parametrize("words", [["--help"], ["train", "--help"], ["list"], ["list", "solvers", "--json"]])
def test_torch_is_not_imported(words: list[str]) -> None:
    program = (
        f"import sys; from beeline.cli.main import run; code = run({words}); sys.exit(code or 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()


def test_names_of_the_package_are_imported_on_first_use() -> None:
    program = (
        "import sys, beeline as bl; assert 'torch' not in sys.modules; assert 'Sampler' in dir(bl); bl.paths.Linear(); "
        "assert 'torch' in sys.modules and 'matplotlib' not in sys.modules; assert 'HEUN' in dir(bl.solvers)"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
