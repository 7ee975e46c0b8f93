"""Where a generated picture comes from, as text inside of its PNG file."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

NAME = "provenance"  # of the text
KIND = "http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia"  # the IPTC term, which C2PA uses too


def assertion(generator: str, model: str, weights: str, facts: Mapping[str, Any]) -> dict[str, Any]:
    """A statement in the words of a C2PA action; it is not signed."""
    action = {
        "action": "c2pa.created",
        "digitalSourceType": KIND,
        "softwareAgent": generator,
        "parameters": {"model": model, "weights_sha256": weights, **facts},
    }
    return {"label": "c2pa.actions", "data": {"actions": [action]}}


def with_provenance(content: bytes, statement: Mapping[str, Any]) -> bytes:
    """The content of a PNG file with a statement; the pixels stay as they are."""
    from PIL import Image as Picture
    from PIL.PngImagePlugin import PngInfo

    texts, file = PngInfo(), io.BytesIO()
    texts.add_itxt(NAME, json.dumps(statement))
    with Picture.open(io.BytesIO(content)) as opened:
        opened.save(file, "PNG", pnginfo=texts)
    return file.getvalue()


def provenance_in(file: Path) -> Any:
    """The statement of a PNG file; None where there is none."""
    from PIL import Image as Picture

    try:
        with Picture.open(file) as opened:
            text = opened.info.get(NAME)
    except OSError:  # another kind of file
        return None
    try:
        return None if text is None else json.loads(text)
    except ValueError:
        return None
