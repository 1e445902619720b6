"""From latents to the frames that are wanted, and no others."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from torch import Tensor

    from vader.backbones.backbone import FamilyBackbone
    from vader.backbones.family import Grid
    from vader.shapes import Latents


class Decoder(Protocol):
    """Decodes for a family. It runs outside autocast; the caller owns grad mode."""

    def frames(self, latent_frames: int, grid: Grid) -> int:
        """How many frames latents hold."""
        ...

    def __call__(self, backbone: FamilyBackbone, latents: Latents, wanted: Sequence[int]) -> Tensor:
        """The wanted frames, about [-1, 1], not clamped: ``(b c f h w)`` latents -> ``(b f 3 h w)``."""
        ...


def frame_indices(frames: Sequence[int] | None, count: int) -> list[int]:
    """The frames wanted of a clip of ``count``; all when None.

    Raises:
        IndexError: none is asked for, or one that the clip does not have.
    """
    wanted = list(range(count) if frames is None else frames)
    if not wanted or min(wanted) < 0 or max(wanted) >= count:
        raise IndexError(f"cannot decode frames {wanted} of a clip of {count}; expected indices 0 to {count - 1}.")
    return wanted


def by_statistics(vae: Any, latents: Latents) -> Latents:
    """Latents as an autoencoder with ``latents_mean`` and ``latents_std`` wants them.

    Source: diffusers' ``WanPipeline.__call__``, operation by operation.
    """
    latents = latents.to(vae.dtype)
    mean = latents.new_tensor(vae.config.latents_mean).view(1, -1, 1, 1, 1)
    inverse_std = 1.0 / latents.new_tensor(vae.config.latents_std).view(1, -1, 1, 1, 1)
    return latents / inverse_std + mean


def encoded_by_statistics(vae: Any, pixels: Tensor) -> Latents:
    """Latents of pixels ``(b 3 f h w)`` in [-1, 1]: the mode, as :func:`by_statistics` takes it back.

    Source: ``prepare_latents`` of diffusers' ``WanImageToVideoPipeline``.
    """
    mode: Tensor = vae.encode(pixels.to(vae.dtype)).latent_dist.mode().float()
    mean = mode.new_tensor(vae.config.latents_mean).view(1, -1, 1, 1, 1)
    inverse_std = 1.0 / mode.new_tensor(vae.config.latents_std).view(1, -1, 1, 1, 1)
    return (mode - mean) * inverse_std


def encoded_by_factor(vae: Any, pixels: Tensor) -> Latents:
    """Latents of pixels ``(b 3 f h w)`` in [-1, 1]: the mode, as :func:`by_factor` takes it back."""
    mode: Tensor = vae.encode(pixels.to(vae.dtype)).latent_dist.mode().float()
    return mode * float(vae.config.scaling_factor)


def by_factor(vae: Any, latents: Latents) -> Latents:
    """Latents as an autoencoder with a ``scaling_factor`` wants them."""
    scaled: Latents = 1 / vae.config.scaling_factor * latents.to(vae.dtype)
    return scaled


@dataclass(frozen=True)
class CausalPrefix:
    """For causal autoencoders: a frame depends on its own and earlier latent frames only.

    So the shortest prefix of latent frames that holds the wanted ones gives the same pixels as all of them, and frames
    near the start are cheap.

    Args:
        unscale: gives latents as the autoencoder wants them.
        batch: latent frames that the autoencoder decodes at once, with statistics over all of them; a prefix then ends
            where such a batch does. The first batch takes what is left over.
    """

    unscale: Any = by_statistics
    batch: int = 1

    def frames(self, latent_frames: int, grid: Grid) -> int:
        """See :class:`Decoder`."""
        return (latent_frames - 1) * grid.time + 1

    def __call__(self, backbone: FamilyBackbone, latents: Latents, wanted: Sequence[int]) -> Tensor:
        """See :class:`Decoder`."""
        needed = -(-max(wanted) // backbone.family.grid.time) + 1
        vae, prefix = backbone.vae, self.prefix(latents.shape[2], needed)
        pixels: Tensor = vae.decode(self.unscale(vae, latents[:, :, :prefix]), return_dict=False)[0]
        return pixels[:, :, list(wanted)].transpose(1, 2)

    def prefix(self, latent_frames: int, needed: int) -> int:
        """Latent frames to decode, of all that there are, when the first ``needed`` ones are."""
        rest = latent_frames % self.batch
        whole = -(-max(needed - rest, 1) // self.batch) * self.batch
        return min(whole + rest, latent_frames)


class PerFrame:
    """For autoencoders of images: frames are decoded by themselves, a slice at a time.

    The option ``decode_slice`` says how many at once. With gradient checkpointing each slice is recomputed in backward,
    so that the activations of one slice alone are held at a time.
    """

    def frames(self, latent_frames: int, grid: Grid) -> int:
        """See :class:`Decoder`."""
        return latent_frames

    def __call__(self, backbone: FamilyBackbone, latents: Latents, wanted: Sequence[int]) -> Tensor:
        """See :class:`Decoder`."""
        import torch

        vae = backbone.vae
        scaled = latents[:, :, list(wanted)].transpose(1, 2).flatten(0, 1) / vae.config.scaling_factor
        slices = scaled.to(vae.dtype).split(getattr(backbone.options, "decode_slice", 1))
        pixels = torch.cat([self._slice(vae, part, backbone.checkpointed) for part in slices]).float()
        return pixels.reshape(len(latents), len(wanted), *pixels.shape[1:])

    @staticmethod
    def _slice(vae: Any, latents: Tensor, recompute: bool) -> Tensor:
        """``(n c h w)`` to ``(n 3 h w)``."""
        import torch
        from torch.utils.checkpoint import checkpoint

        def decode(part: Tensor) -> Any:
            return vae.decode(part, return_dict=False)[0]

        again = recompute and torch.is_grad_enabled()
        pixels: Tensor = checkpoint(decode, latents, use_reentrant=False) if again else decode(latents)
        return pixels
