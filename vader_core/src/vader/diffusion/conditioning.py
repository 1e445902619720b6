"""Conditioning of prompts, encoded once each."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

import torch

from vader.protocols import Backbone, Conditioning, Prompt


class ConditioningCache:
    """Encodes each prompt once, alone, without gradient, and keeps it on the CPU.

    Alone, because a text encoder's numbers depend on the batch it runs in, and a resumed run meets other batches.

    Args:
        backbone: encodes.
        device: where the conditioning is wanted.
        size: prompts kept; the one not used for longest goes first.
    """

    def __init__(self, backbone: Backbone, device: torch.device, size: int = 1024) -> None:
        self._backbone, self._device, self._size = backbone, device, size
        self._rows: OrderedDict[str, Conditioning] = OrderedDict()

    def __call__(self, prompts: Sequence[Prompt]) -> Conditioning:
        """Conditioning of ``b`` prompts, on the device."""
        rows = [self._row(prompt.text) for prompt in prompts]
        extras = {name: torch.cat([row.extras[name] for row in rows]) for name in rows[0].extras}
        embeds = torch.cat([row.prompt_embeds for row in rows])
        negative = torch.cat([row.negative_prompt_embeds for row in rows])
        return Conditioning(embeds, negative, extras).to(self._device)

    def _row(self, text: str) -> Conditioning:
        if text not in self._rows:
            with torch.no_grad():
                self._rows[text] = self._backbone.encode([text]).detach().to("cpu")
            if len(self._rows) > self._size:
                self._rows.popitem(last=False)
        self._rows.move_to_end(text)
        return self._rows[text]
