"""From latents to the frames that are wanted, and no others."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from vader.protocols import DecodePlan

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

    def modes(self, autoencoder: str) -> frozenset[str]:
        """The fields of a :class:`vader.DecodePlan` that may differ from their defaults.

        Args:
            autoencoder: its class in diffusers.
        """
        ...

    def __call__(self, backbone: FamilyBackbone, latents: Latents, wanted: Sequence[int], plan: DecodePlan) -> Tensor:
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
    mean, std = _statistics(vae, latents)
    return latents / (1.0 / std) + mean


def _statistics(vae: Any, latents: Latents) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of each channel, on the latents' device; the host does not wait for them."""
    import torch

    told = (torch.tensor(said, dtype=latents.dtype) for said in (vae.config.latents_mean, vae.config.latents_std))
    mean, std = (one.view(1, -1, 1, 1, 1).to(latents.device, non_blocking=True) for one in told)
    return mean, std


def encoded_by_statistics(vae: Any, pixels: Tensor) -> Latents:
    """Latents of pixels ``(b 3 f h w)`` in [-1, 1]: the mode, as :func:`by_statistics` takes it back.

    Source: ``prepare_latents`` of diffusers' ``WanImageToVideoPipeline``.
    """
    mode: Tensor = vae.encode(pixels.to(vae.dtype)).latent_dist.mode().float()
    mean, std = _statistics(vae, mode)
    return (mode - mean) * (1.0 / std)


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

    Where the autoencoder's class has a chain of stages (:mod:`vader.backbones.autoencoders`), memory grows with the
    wanted frames, and with the clip only as far back as gradient reaches. Any other decodes the shortest prefix of
    latent frames that holds the wanted ones, layer by layer recomputed in backward.

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

    def modes(self, autoencoder: str) -> frozenset[str]:
        """See :class:`Decoder`."""
        from vader.backbones.autoencoders import CHAINS, TILED

        chained = {"window", "precision"} if autoencoder in CHAINS else set()
        return frozenset(chained | ({"tiles"} if autoencoder in TILED else set()))

    def __call__(self, backbone: FamilyBackbone, latents: Latents, wanted: Sequence[int], plan: DecodePlan) -> Tensor:
        """See :class:`Decoder`."""
        from vader.backbones.autoencoders import CHAINS
        from vader.backbones.streaming import Chain, chunk_bounds

        vae = backbone.vae
        stages = CHAINS.get(type(vae).__name__)
        if stages is not None:
            bounds = chunk_bounds(latents.shape[2], self.batch)
            return Chain(stages(vae), bounds, wanted, plan)(self.unscale(vae, latents))
        needed = -(-max(wanted) // backbone.family.grid.time) + 1
        prefix = self.unscale(vae, latents[:, :, : self.prefix(latents.shape[2], needed)])
        return decode_whole(vae, prefix)[:, :, list(wanted)].transpose(1, 2)

    def prefix(self, latent_frames: int, needed: int) -> int:
        """Latent frames to decode, of all that there are, when the first ``needed`` ones are."""
        rest = latent_frames % self.batch
        whole = -(-max(needed - rest, 1) // self.batch) * self.batch
        return min(whole + rest, latent_frames)


@dataclass(frozen=True)
class WholeClip:
    """For autoencoders in which every frame depends on all latent frames: the clip is decoded whole.

    The layers of its decoder are recomputed in backward, so that what lies between them alone is held.

    Args:
        unscale: gives latents as the autoencoder wants them.
        decode: ``(backbone, latents) -> (b 3 f h w)`` in place of it, for autoencoders that want more than latents; it
            calls :func:`decode_whole`.
    """

    unscale: Any = by_statistics
    decode: Any = None

    def frames(self, latent_frames: int, grid: Grid) -> int:
        """See :class:`Decoder`."""
        return (latent_frames - grid.time_offset) * grid.time + grid.time_offset

    def modes(self, autoencoder: str) -> frozenset[str]:
        """See :class:`Decoder`."""
        return frozenset()

    def __call__(self, backbone: FamilyBackbone, latents: Latents, wanted: Sequence[int], plan: DecodePlan) -> Tensor:
        """See :class:`Decoder`."""
        if self.decode is not None:
            pixels: Tensor = self.decode(backbone, latents)
        else:
            pixels = decode_whole(backbone.vae, self.unscale(backbone.vae, latents))
        return pixels[:, :, list(wanted)].transpose(1, 2)


def decode_whole(vae: Any, latents: Tensor, *more: Any) -> Tensor:
    """An autoencoder's own ``decode``, each layer of its decoder recomputed in backward: the members of its lists of
    layers that hold no further list.

    Args:
        vae: of diffusers.
        latents: as it wants them.
        more: what else its ``decode`` takes.
    """
    from torch import nn

    from vader.backbones.checkpointing import recomputing

    lists = [module for module in vae.decoder.modules() if isinstance(module, nn.ModuleList)]
    members = {layer for each in lists for layer in each if layer is not None}
    layers = [layer for layer in members if not any(isinstance(part, nn.ModuleList) for part in layer.modules())]
    with recomputing(layers):
        pixels: Tensor = vae.decode(latents, *more, return_dict=False)[0]
    return pixels


class PerFrame:
    """For autoencoders of images: frames are decoded by themselves, a slice at a time.

    The option ``decode_slice`` says how many at once. Each slice is recomputed in backward, so that the activations of
    one slice alone are held at a time.
    """

    def frames(self, latent_frames: int, grid: Grid) -> int:
        """See :class:`Decoder`."""
        return latent_frames

    def modes(self, autoencoder: str) -> frozenset[str]:
        """See :class:`Decoder`."""
        return frozenset({"precision"})

    def __call__(self, backbone: FamilyBackbone, latents: Latents, wanted: Sequence[int], plan: DecodePlan) -> Tensor:
        """See :class:`Decoder`."""
        import torch

        from vader.backbones.autoencoders import Image
        from vader.backbones.streaming import through

        vae = backbone.vae
        scaled = latents[:, :, list(wanted)].transpose(1, 2).flatten(0, 1) / vae.config.scaling_factor
        slices = scaled.to(vae.dtype).split(getattr(backbone.options, "decode_slice", 1))
        pixels = torch.cat([through(Image(vae), part, plan) for part in slices]).float()
        return pixels.reshape(len(latents), len(wanted), *pixels.shape[1:])
