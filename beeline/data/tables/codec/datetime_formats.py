"""Datetimes as text: detection of their format, parsing and formatting."""

from __future__ import annotations

import datetime
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from beeline.core.errors import require

Array = np.ndarray[Any, Any]

_ENGLISH = "January February March April May June July August September October November December"
_GERMAN = "Januar Februar März April Mai Juni Juli August September Oktober November Dezember"
_FRENCH = "janvier février mars avril mai juin juillet août septembre octobre novembre décembre"
_SPANISH = "enero febrero marzo abril mayo junio julio agosto septiembre octubre noviembre diciembre"
MONTHS: tuple[tuple[str, ...], ...] = (
    tuple(m[:3] for m in _ENGLISH.split()),
    tuple(_ENGLISH.split()),
    tuple("Jan Feb Mär Apr Mai Jun Jul Aug Sep Okt Nov Dez".split()),
    tuple("Jan. Feb. März Apr. Mai Juni Juli Aug. Sep. Okt. Nov. Dez.".split()),
    tuple(_GERMAN.split()),
    tuple(_FRENCH.split()),
    tuple(_SPANISH.split()),
    tuple("Jan Feb Mar Apr May Jun Jul Aug Sept Oct Nov Dec".split()),
)
"""Known names of the months."""
DAYS = "Monday Tuesday Wednesday Thursday Friday Saturday Sunday".split()

TOKENS = {
    "%Y": r"(\d{4})", "%y": r"(\d{2})", "%m": r"(\d{1,2})", "%-m": r"(\d{1,2})", "%d": r"(\d{1,2})",
    "%-d": r"(\d{1,2})", "%b": r"([^\W\d_]+\.?)", "%B": r"([^\W\d_]+\.?)", "%a": r"([A-Za-z]{3})", "%A": r"([A-Za-z]+)",
    "%H": r"(\d{1,2})", "%-H": r"(\d{1,2})", "%I": r"(\d{1,2})", "%-I": r"(\d{1,2})", "%M": r"(\d{2})",
    "%S": r"(\d{2})", "%f": r"(\d{1,9})", "%?f": r"((?:\.\d{6})?)", "%*f": r"((?:\.\d{1,9})?)",
    "%p": r"([AaPp][Mm])", "%P": r"([AaPp][Mm])", "%z": r"(Z|[+-]\d{2}:?\d{2})", "%:z": r"(Z|[+-]\d{2}:?\d{2})",
}  # fmt: skip
"""What a format is made of: the words of strftime; '-' is without a leading zero, %3f are three digits, %?f six digits
or nothing, %*f a fraction without zeros at its end or nothing, %P is am or pm, and %:z an offset with a colon."""
PIECE = re.compile(r"%[-?*:1-9]?[a-zA-Z]|%%|[^%]+")
TIME = re.compile(
    r"(?P<join>T|, | |:)?(?P<H>\d{1,2}):\d{2}(?P<S>:\d{2})?(?P<f>[.,]\d{1,9})?(?P<gap>\s?)(?P<p>[AaPp][Mm])?"
    r"(?P<z>\s?(?:Z|UTC|GMT|[+-]\d{2}:?\d{2}))?"
)


def _dates() -> tuple[str, ...]:
    """Formats of dates, with the day before the month unless separated by slashes."""
    found = []
    for s in "-/. ":
        short = ["%d{s}%m{s}%Y", "%m{s}%d{s}%Y", "%d{s}%m{s}%y", "%m{s}%d{s}%y"]
        order = [short[i] for i in ((1, 0, 3, 2) if s in "/" else (0, 1, 2, 3))]
        every = ("%Y{s}%m{s}%d", *order, "%d{s}%b{s}%Y", "%d{s}%b{s}%y", "%Y{s}%b{s}%d")
        found += [form.format(s=s) for form in every]
    found += ["%b %d, %Y", "%b %d %Y", "%d. %b %Y", "%d %b, %Y", "%Y-%m", "%Y/%m", "%m/%Y", "%m.%Y", "%b %Y", "%b-%y"]
    return (*found, "%b-%Y")


@dataclass(frozen=True)
class Form:
    """The format of the datetimes of a column."""

    format: str
    months: tuple[str, ...] = ()  # their names, as written; () is English

    @property
    def names(self) -> tuple[str, ...]:
        return self.months or (MONTHS[1] if "%B" in self.format else MONTHS[0])

    def parse(self, texts: Iterable[str]) -> tuple[Array, Array]:
        """Nanoseconds (Python integers) since 1970 in UTC and the offsets in minutes; None for other text."""
        pattern, tokens = compiled(self.format)
        months = {name.casefold(): i + 1 for i, name in enumerate(self.names)}
        stamps, offsets = [], []
        for text in texts:
            found = pattern.fullmatch(text)
            made = None if found is None else _instant(dict(zip(tokens, found.groups(), strict=True)), months)
            stamps.append(None if made is None else made[0])
            offsets.append(None if made is None else made[1])
        return np.array(stamps, dtype=object), np.array(offsets, dtype=object)

    def write(self, stamps: Sequence[int], offsets: Sequence[int] | None = None) -> list[str]:
        """Text of nanoseconds since 1970 in UTC, at offsets in minutes."""
        pieces = PIECE.findall(self.format)
        names = self.names
        shifts = [0] * len(stamps) if offsets is None else offsets
        return ["".join(_piece(p, int(n), int(o), names) for p in pieces) for n, o in zip(stamps, shifts, strict=True)]


@lru_cache(maxsize=256)
def compiled(form: str) -> tuple[re.Pattern[str], tuple[str, ...]]:
    """The pattern of a format, and the words whose values it finds."""
    pattern, tokens = "", []
    for piece in PIECE.findall(form):
        if piece in ("%%",) or not piece.startswith("%"):
            pattern += re.escape(piece.replace("%%", "%"))
            continue
        digits = re.fullmatch(r"%([1-9])f", piece)
        require(
            piece in TOKENS or digits,
            f"the format {form!r} holds {piece}, which is not read here; known are {' '.join(TOKENS)} and %3f",
        )
        pattern += rf"(\d{{{digits[1]}}})" if digits else TOKENS[piece]
        word = "f" if digits else piece[-1].replace("B", "b").replace("P", "p").replace("A", "a")
        require(word not in tokens, f"the format {form!r} holds {piece} twice; write it once")
        tokens.append(word)
    return re.compile(pattern), tuple(tokens)


def _instant(part: dict[str, str], months: dict[str, int]) -> tuple[int, int | None] | None:
    """(nanoseconds since 1970 in UTC, offset in minutes) of the parts of a text; None for invalid ones."""
    year = int(part["Y"]) if "Y" in part else 1970
    if "y" in part:
        year = int(part["y"]) + (1900 if int(part["y"]) >= 69 else 2000)
    month = int(part["m"]) if "m" in part else months.get(part["b"].casefold(), 0) if "b" in part else 1
    hour = int(part.get("H", part.get("I", "0")))
    if "I" in part:
        if not 1 <= hour <= 12:
            return None
        hour = hour % 12 + 12 * (part.get("p", "am").lower() in ("pm",))
    try:
        at = datetime.datetime(year, month, int(part.get("d", 1)), hour, int(part.get("M", 0)), int(part.get("S", 0)))
    except ValueError:
        return None
    days = at.toordinal() - 719_163
    stamp = (days * 86_400 + at.hour * 3600 + at.minute * 60 + at.second) * 1_000_000_000
    stamp += int(part.get("f", "").lstrip(".").ljust(9, "0"))
    if "z" not in part:
        return stamp, None
    zone = part["z"]
    offset = 0 if zone in ("Z",) else int(zone[0] + "1") * (60 * int(zone[1:3]) + int(zone[-2:]))
    return stamp - offset * 60_000_000_000, offset


def _piece(piece: str, stamp: int, offset: int, months: tuple[str, ...]) -> str:
    """One piece of a format written."""
    if not piece.startswith("%"):
        return piece
    second, fraction = divmod(stamp + offset * 60_000_000_000, 1_000_000_000)
    day, clock = divmod(second, 86_400)
    word = piece[-1]
    if word in "fHIMSpP":
        hour = clock // 3600
        if word in "f":
            digits = f"{fraction:09d}"
            whole = {"?": digits[:6], "*": digits.rstrip("0")}
            if piece[1] in whole:
                return f".{whole[piece[1]]}" if fraction else ""
            return digits[: int(piece[1])] if piece[1].isdigit() else digits[:6]
        if word in "pP":
            made = "AM" if hour < 12 else "PM"
            return made if word in "p" else made.lower()
        number = {"H": hour, "I": (hour - 1) % 12 + 1, "M": clock // 60 % 60, "S": clock % 60}[word]
        return str(number) if "-" in piece else f"{number:02d}"
    if word in "z":
        colon = ":" if ":" in piece else ""
        return f"{'-' if offset < 0 else '+'}{abs(offset) // 60:02d}{colon}{abs(offset) % 60:02d}"
    date = datetime.date.fromordinal(day + 719_163)
    if word in "bB":
        return months[date.month - 1]
    if word in "aA":
        return DAYS[date.weekday()] if word in "A" else DAYS[date.weekday()][:3]
    if word in "Y":
        return f"{date.year:04d}"
    if word in "y":
        return f"{date.year % 100:02d}"
    if word in "%":
        return "%"
    number = date.month if word in "m" else date.day
    return str(number) if "-" in piece else f"{number:02d}"


def find(texts: Sequence[str]) -> tuple[Form | None, Array]:
    """(the format of most of the distinct texts, mask of those that do not have it); (None, mask) if fewer than half
    are datetimes."""
    nothing = np.ones(len(texts), dtype=bool)
    best: tuple[Form | None, Array] = (None, nothing)
    shapes = list(dict.fromkeys(re.sub(r"\d", "0", t) for t in texts[:2000]))
    seen: set[str] = set()
    for shape in sorted(shapes, key=len, reverse=True)[:8]:
        sample = next(t for t in texts if re.sub(r"\d", "0", t) == shape)
        shaped = _candidates(sample.strip())
        fractions = [f.replace(".%f", other) for f in shaped for other in ("%?f", "%*f") if ".%f" in f]
        for raw in (*shaped, *fractions):
            form = Form(raw)
            if raw in seen:
                continue
            seen.add(raw)
            form = _named(form, texts)
            if np.mean([s is None for s in form.parse(texts[:200])[0]]) > 0.5:
                continue
            stamps, _ = form.parse(texts)
            bad = np.array([s is None for s in stamps])
            if bad.sum() < best[1].sum():
                best = (form, bad)
            if not bad.any():
                return _polished(form, texts), bad
    return best if best[1].mean() < 0.5 else (None, nothing)


def _candidates(text: str) -> list[str]:
    """Formats that a text may have."""
    found = []
    if (time := TIME.fullmatch(text)) and not time["join"]:
        found.append(_clock(time))
    for form in _dates():
        for day in ("", "%a, ", "%a ", "%A, "):
            match = compiled(day + form)[0].match(text)
            if match is None:
                continue
            rest = text[match.end() :]
            if not rest:
                found.append(day + form)
            elif (time := TIME.fullmatch(rest)) and time["join"]:
                found.append(day + form + _clock(time))
    if re.fullmatch(r"\d{8}T?\s?\d{6}.*", text):
        found += ["%Y%m%dT%H%M%S", "%Y%m%dT%H%M%SZ", "%Y%m%d %H%M%S"]
    if re.fullmatch(r"[A-Z][a-z]{2} [A-Z][a-z]{2} [ \d]\d \d\d:\d\d:\d\d \d{4}", text):
        found.append("%a %b %d %H:%M:%S %Y")
    return found


def _clock(time: re.Match[str]) -> str:
    """The format of a time of day behind a date."""
    form = (time["join"] or "") + ("%I" if time["p"] else "%H") + ":%M" + (":%S" if time["S"] else "")
    form += f"{time['f'][0]}%f" if time["f"] else ""
    form += time["gap"] if time["p"] or not time["z"] else ""
    form += ("%p" if time["p"].isupper() else "%P") if time["p"] else ""
    zone = time["z"] or ""
    gap = time["gap"] if zone and not time["p"] else ""
    if not zone:
        return form
    if zone.strip() in ("UTC", "GMT"):
        return form + gap + zone
    return form + gap + re.sub(r"\S+", "%:z" if ":" in zone or "Z" in zone else "%z", zone)


def _named(form: Form, texts: Sequence[str]) -> Form:
    """The form with the names of months that most of the texts use."""
    pattern, tokens = compiled(form.format)
    if "b" not in tokens:
        return form
    place = tokens.index("b") + 1
    words = {m[place] for m in map(pattern.fullmatch, texts) if m}
    sets = [
        tuple(change(name) for name in names) for names in MONTHS for change in (str, str.upper, str.lower, str.title)
    ]
    best = max(sets, key=lambda names: len(words & set(names)))
    return Form(form.format, () if best == MONTHS[0] else best)


def _polished(form: Form, texts: Sequence[str]) -> Form:
    """The form with the zeros, digits and offsets of all texts, so that it writes them to the letter."""
    raw = form.format
    if "%f" in raw:
        groups = [m[0] for t in texts if (m := re.search(r"(?<=\d[.,])\d+(?=$|\s|Z|[+-])", t))]
        lengths = {len(g) for g in groups}
        raw = raw.replace("%f", f"%{lengths.pop()}f") if len(lengths) == 1 else raw
        if "%f" in raw:
            raw = raw.replace(".%f", "%*f")
    pattern, tokens = compiled(raw)
    groups_of = [m.groups() for m in map(pattern.fullmatch, texts) if m]
    for word in "mdHI":
        if word in tokens:
            cells = [g[tokens.index(word)] for g in groups_of]
            if any(len(c) == 1 for c in cells):
                raw = raw.replace(f"%{word}", f"%-{word}")
    if "z" in tokens:
        zones = {g[tokens.index("z")] for g in groups_of}
        if len(zones) == 1:  # a constant offset is part of the text
            raw = re.sub("%:?z", zones.pop(), raw)
    return Form(raw, form.months)
