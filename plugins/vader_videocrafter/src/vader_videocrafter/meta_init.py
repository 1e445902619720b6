"""The networks of a VideoCrafter checkpoint without its weights: from the file's names and shapes, or the published."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from vader_videocrafter import tiny, weights
from vader_videocrafter.checkpoint import Stored, open_checkpoint
from vader_videocrafter.layout import PUBLISHED, PUBLISHED_TEXT, Layout, VAELayout, read

HUB = "VideoCrafter/VideoCrafter2"
_LAYOUT = Layout(PUBLISHED, VAELayout(4, (128, 256, 512, 512), 2), PUBLISHED_TEXT)
"""The sizes of the checkpoint that is called :data:`HUB`."""


def parts(name: str, revision: str | None, dtype: torch.dtype) -> weights.Parts:
    """The networks on the meta device, and the real noise schedule.

    Args:
        name: a local file or folder, or a hub id.
        revision: of the hub repository.
        dtype: of denoiser and text encoder.

    Raises:
        vader.WeightsError: the file is of another model, or there is none and the name is not :data:`HUB`.
    """
    if name == HUB and revision is None and not Path(name).exists():
        buffers = tiny.buffers("512-v2")
        stored = Stored({key: tuple(tensor.shape) for key, tensor in buffers.items()}, buffers.__getitem__)
        layout, networks = _LAYOUT, weights.build(_LAYOUT)
    else:
        stored = open_checkpoint(weights.locate(name, revision), name)
        layout = read(stored.shapes, name)
        networks = weights.checked(stored.shapes, layout, name)
    for module, kind in zip(networks, (dtype, torch.float32, dtype), strict=True):
        nn.Module.to(module, kind)  # diffusers' own `to` warns of float32 modules it has not
        module.requires_grad_(False).eval()
    return weights.Parts(layout, networks.unet, networks.vae, networks.text_encoder, weights.schedule(stored))
