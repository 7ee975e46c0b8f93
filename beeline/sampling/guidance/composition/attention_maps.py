"""Attention of image tokens, recorded while a network is evaluated."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from beeline.core.declared import TokenGrid
from beeline.core.errors import require
from beeline.networks.attending.mode import AttentionMode, ImageAttention


class RecordedAttention(AttentionMode):
    """Records the mean attention of image tokens over heads and layers, inside its context and thread.

    ``image`` [B,N,N] is that to other image tokens, ``text`` [B,N,L] that to the tokens of a text in joint attention;
    the rows of each have the sum 1.  Of layers with different numbers of tokens of a text those with the number of the
    first are recorded.  The network's own result is not changed; the probabilities are computed a second time, in
    float32.
    """

    def __init__(self, grid: TokenGrid):
        super().__init__(self._record, grid)
        self.sums: dict[bool, tuple[Tensor, int]] = {}  # by whether they are those of the text

    @property
    def image(self) -> Tensor | None:
        """Attention to image tokens [B,N,N]; None if none was recorded."""
        return self._mean(False)

    @property
    def text(self) -> Tensor | None:
        """Attention to tokens of the text [B,N,L]; None if none was recorded."""
        return self._mean(True)

    def _mean(self, text: bool) -> Tensor | None:
        found = self.sums.get(text)
        return None if found is None else found[0] / found[1]

    def _record(self, a: ImageAttention) -> Tensor:
        with torch.no_grad():
            logits = a.q[:, :, a.image].float() @ a.k.float().mT * a.scale
            if a.mask is not None:
                mask = a.mask if a.mask.shape[-2] == 1 else a.mask[..., a.image, :]
                logits = logits.masked_fill(~mask, -torch.inf) if mask.dtype == torch.bool else logits + mask
            p = logits.softmax(-1).mean(1)
            self._add(False, p[..., a.image])
            if a.text.stop > a.text.start:
                self._add(True, p[..., a.text])
        return a.softmax()

    def _add(self, text: bool, p: Tensor) -> None:
        p = p / p.sum(-1, keepdim=True).clamp(min=1e-12)
        total, count = self.sums.get(text, (torch.zeros_like(p), 0))
        if total.shape == p.shape:
            self.sums[text] = (total + p, count + 1)


def text_maps(recorded: RecordedAttention, grid: TokenGrid, tokens: Sequence[int], whose: str) -> Tensor:
    """How much the tokens of a picture belong to chosen tokens of a text (none: to all), [B,K,rows,columns].

    maps = S' C,  S = attention image -> image, C = image -> text;  S' = (S + 3 S^2) / 4
    Raises ValueError where no joint attention was recorded, and for tokens that the text does not have.
    """
    text, image = recorded.text, recorded.image
    require(
        text is not None and image is not None,
        f"{whose} found no joint attention with the tokens of a text; the conditions of the network are no tokens: "
        "give the regions",
    )
    assert text is not None and image is not None
    require(
        max(tokens, default=0) < text.shape[2],
        f"{whose} got the tokens {tuple(tokens)}, but the text has {text.shape[2]} tokens: give indices below it",
    )
    text = (image @ text + 3 * image @ (image @ text)) / 4
    chosen = text[:, :, list(tokens)] if tokens else text
    return chosen.mT.unflatten(2, (grid.rows, grid.columns))
