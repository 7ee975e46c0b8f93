"""Keys of users, of which only hashes are stored."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from beeline.core.errors import require


@dataclass(frozen=True)
class Keys:
    """SHA-256 hashes of keys with the names of their users; without any everybody may draw.

    >>> Keys({hashed("secret"): "ada"}).user("Bearer secret")
    'ada'
    """

    users: Mapping[str, str] = field(default_factory=dict)  # hash -> name

    def user(self, header: str) -> str | None:
        """The name of a user by a header Authorization; None for a key that is not known."""
        if not self.users:
            return ""
        given = hashed(header.removeprefix("Bearer ").strip())
        return next((name for known, name in self.users.items() if hmac.compare_digest(known, given)), None)

    @staticmethod
    def read(path: Path) -> Keys:
        """Keys from a file with a line "NAME SHA256" for every user; ValueError for other lines."""
        require(path.is_file(), f"there is no file {path} of keys; write a line 'NAME SHA256' for every user")
        users: dict[str, str] = {}
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
            if not line.strip() or line.startswith("#"):
                continue
            name, _, known = line.strip().partition(" ")
            require(
                len(known) == 64 and set(known) <= set("0123456789abcdef"),
                f"{path}, line {number}: no hash of 64 hexadecimal digits after the name {name!r}; write it as "
                "printf KEY | sha256sum gives it",
            )
            users[known] = name
        return Keys(users)


def hashed(key: str) -> str:
    """The hash under which a key is stored."""
    return hashlib.sha256(key.encode()).hexdigest()
