"""Dimension legend and tensor aliases, used in every signature and docstring of vader.

============ ==========================================================================================
letter       meaning
============ ==========================================================================================
``b``        clips in a batch
``c``        channels (3 for pixels, the VAE's latent channels for latents)
``f``        frames; for latents of a VAE that compresses time, latent frames
``h`` ``w``  height and width, in pixels or in latent cells
``n``        tokens of a prompt
``d``        width of an embedding
============ ==========================================================================================

Latents are ``b c f h w``; frames are pixels ``b f c h w`` in [0, 1].
"""

from __future__ import annotations

from typing import TypeAlias

from torch import Tensor

Latents: TypeAlias = Tensor
"""``(b c f h w)``, unit variance noise at sigma 1."""

Frames: TypeAlias = Tensor
"""``(b f c h w)``, pixels in [0, 1]."""

Scores: TypeAlias = Tensor
"""``(b,)``, higher is better."""
