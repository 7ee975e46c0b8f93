"""The vocabulary of the package: words and names that were replaced do not come back."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FOLDERS = ("beeline", "benchmarks", "tests", "docs")
PAGES = ("README.md", "CONTRIBUTING.md", "Makefile", "pyproject.toml")
SUFFIXES = {".py", ".j2", ".md"}

# files that hold old words on purpose, each with its reason
EXCLUDED = {
    "docs/claims.md": "generated from the claims",
    "beeline/core/old_names.py": "the translation table of old files",
    "beeline/config/translation.py": "the translation table of old files",
    "tests/config/test_old_files.py": "files of the first version still load",
    "tests/test_words.py": "the list itself",
}
MEASURED = "benchmarks/claims/"  # a hash of this code stands beside its figures

# words in place of which the field has a term, with that term; also as a part of names such as one_word
WORDS = {
    "houses?": "package",
    "rooms?": "folder, memory or space",
    "doors?": "command or interface",
    "roads?": "pipeline",
    "belts?": "checks",
    "(shelf|shelves)": "namespace",
    "journals?": "run log",
    "lots?": "batch or microbatch",
    "laws?": "distribution",
    "(walk|walks|walked|walking)": "trajectory; integrate or iterate",
    "somebody": "a user",
    "strangers?": "a reader",
    "twins?": "copy, or functional dependency",
    "optimi[s]ers?": "optimizer",
    "retreats?": "recovery",
    "keep_(every|last)": "checkpoint_every, checkpoint_keep",
}
# names of the first version, as they were written
NAMES = {
    "Replicated": "DDP",
    "Sharded": "FSDP",
    "Patience": "EarlyStopping",
    "Pruning": "DataPruning",
    "FromData": "DatasetSource",
    "Source: none": "leave the line out",
    "Assumes nothing": "leave the line out, or state the assumption",
}
PATTERNS = [(re.compile(f"(?<![A-Za-z]){word}(?![A-Za-z])", re.IGNORECASE), term) for word, term in WORDS.items()]
PATTERNS += [(re.compile(rf"\b{word}\b"), term) for word, term in NAMES.items()]

# lines on which a word is right, as regular expressions, each with its reason
ALLOWED = {
    r"""fork\(["'][^"']*(lot|walk|law)""": "keys of random streams: another key would give other numbers",
    r"""fork\(["']retreat|["']retreat["'] not in rng.path""": "a key of random streams",
    r"""["']twin["']""": "a key of the files of tables",
    r'"Source: none" not in': "a test that the line is left out",
    r"\b(ast|os)\.walk\(": "functions of the standard library",
}


def name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def files() -> list[Path]:
    found = [path for folder in FOLDERS for path in sorted((ROOT / folder).rglob("*")) if path.suffix in SUFFIXES]
    every = [*found, *(ROOT / page for page in PAGES)]
    return [path for path in every if name(path) not in EXCLUDED and not name(path).startswith(MEASURED)]


def faults(text: str) -> list[str]:
    """The replaced words of a text, with their lines and the terms to use."""
    lines = [
        (number, line)
        for number, line in enumerate(text.splitlines(), start=1)
        if not any(re.search(allowed, line) for allowed in ALLOWED)
    ]
    return [
        f"line {number}: {found[0]!r} ({term})"
        for number, line in lines
        for pattern, term in PATTERNS
        for found in pattern.finditer(line)
    ]


@pytest.mark.parametrize("path", files(), ids=name)
def test_no_replaced_words(path: Path) -> None:
    assert not faults(path.read_text(encoding="utf-8"))


def test_the_check_finds_words_and_allows_keys() -> None:
    assert faults("x = 1\n# a law of times") == ["line 2: 'law' (distribution)"]
    assert faults("def test_any_law_of_times") and faults("LAW = 3") and not faults("a slot, a clawback, an allotment")
    assert not faults('rng.fork("lot", number)') and not faults("for node in ast.walk(tree)")
