"""A line of JSON for every request."""

from __future__ import annotations

import json
import threading
import time
from dataclasses import dataclass, field
from typing import Any, TextIO

PRIVATE = ("condition",)  # what a user wants drawn


@dataclass(eq=False)
class Log:
    """Writes lines of JSON: time, user, method, path, status and seconds, and of what was drawn the model and the rows.

    ``conditions`` adds the conditions and prompts, which may be private.
    """

    file: TextIO
    conditions: bool = False
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def write(self, drawn: dict[str, Any], **facts: Any) -> None:
        """One request; ``drawn`` is what its route noted."""
        known = {name: value for name, value in drawn.items() if self.conditions or name not in PRIVATE}
        line = json.dumps({"time": round(time.time(), 3), **facts, **known}, default=str)
        with self._lock:
            self.file.write(line + "\n")
            self.file.flush()
