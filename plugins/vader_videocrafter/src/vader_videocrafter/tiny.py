"""Writes a tiny VideoCrafter checkpoint with random weights: the published file format and names, at toy sizes.

For tests, and for trying a spec before gigabytes are downloaded::

    python -m vader_videocrafter.tiny FOLDER

Clips of 2 to 4 frames of 16 x 16 are a good size for it. Its pictures mean nothing.
"""

from __future__ import annotations

import argparse
import math
from pathlib import Path
from typing import TYPE_CHECKING

from vader_videocrafter.layout import TEXT, UNET, VAE, Layout, TextLayout, UNetLayout, VAELayout

if TYPE_CHECKING:
    import torch
    from torch import Tensor

TRAIN_TIMESTEPS = 1000
KINDS = ("512-v2", "512-v1", "1024")
_TEXT = TextLayout(width=16, length=77, vocabulary=49408, layers=2)
_VAE = VAELayout(latent_channels=4, channels=(32, 64), layers=1)
_CONVOLUTIONS = {
    **{f"{UNET}init_attn.0.proj_{end}.weight": (1,) for end in ("in", "out")},
    **{
        f"{VAE}{half}.mid.attn_1.{name}.weight": (1, 1)
        for half in ("encoder", "decoder")
        for name in ("q", "k", "v", "proj_out")
    },
}
"""Linear layers that are convolutions in the published files: the ends of their shapes."""


def write(folder: str | Path, seed: int = 0, kind: str = "512-v2") -> Path:
    """Write ``model.ckpt``, some megabytes, into a folder.

    Args:
        folder: created if it is not there.
        seed: of the random weights; the global random state is left as it was.
        kind: which published configuration it imitates, one of :data:`KINDS`.

    Returns:
        The file.
    """
    import torch

    file = Path(folder) / "model.ckpt"
    file.parent.mkdir(parents=True, exist_ok=True)
    torch.save({"state_dict": state_dict(layout(kind), seed, kind)}, file)
    return file


def layout(kind: str) -> Layout:
    """Toy sizes of a published configuration. 64 channels, because at 32 a group norm would hide the timestep."""
    modern = kind == "512-v2"
    unet = UNetLayout(4, (64, 64), (False, True), 1, 8, _TEXT.width, modern, kind != "512-v1", None if modern else 4)
    return Layout(unet, _VAE, _TEXT)


def state_dict(sizes: Layout, seed: int, kind: str) -> dict[str, Tensor]:
    """The tensors by published name: each weight drawn anew, so that none is zero, and the buffers of training."""
    import torch

    from vader_videocrafter import weights

    generator = torch.Generator().manual_seed(seed)

    def drawn(shape: torch.Size, name: str) -> Tensor:
        noise = torch.randn(shape, generator=generator)
        if len(shape) > 1:
            return noise.mul(0.7 / math.prod(shape[1:]) ** 0.5).reshape(*shape, *_CONVOLUTIONS.get(name, ()))
        return 0.1 * noise + (1.0 if name.endswith(".weight") else 0.0)  # a vector called weight scales a norm

    parameters = [(name, parameter.shape) for parameter, name in weights.build(sizes).parameters(sizes)]
    return {**buffers(kind), **{name: drawn(shape, name) for name, shape in [*parameters, *_unused(parameters, sizes)]}}


def _unused(parameters: list[tuple[str, torch.Size]], sizes: Layout) -> list[tuple[str, torch.Size]]:
    """What a published text encoder has besides: its last layer, and what compares texts with images."""
    import torch

    first, last = (f"{TEXT}transformer.resblocks.{place}." for place in (0, sizes.text.layers - 1))
    layer = [(last + name.removeprefix(first), shape) for name, shape in parameters if name.startswith(first)]
    square = torch.Size((sizes.text.width, sizes.text.width))
    return [*layer, (f"{TEXT}text_projection", square), (f"{TEXT}logit_scale", torch.Size(()))]


def buffers(kind: str) -> dict[str, Tensor]:
    """What every published configuration keeps of its noise schedule (Ho et al. 2020, arXiv 2006.11239, eq. 6 and 7),
    and the scale of the signal of the newer ones."""
    import torch

    betas = torch.linspace(0.00085**0.5, 0.012**0.5, TRAIN_TIMESTEPS, dtype=torch.float64).square()
    kept = (1 - betas).cumprod(0)
    before = torch.cat([torch.ones(1, dtype=torch.float64), kept[:-1]])
    variance = betas * (1 - before) / (1 - kept)
    found = {
        "betas": betas,
        "alphas_cumprod": kept,
        "alphas_cumprod_prev": before,
        "sqrt_alphas_cumprod": kept.sqrt(),
        "sqrt_one_minus_alphas_cumprod": (1 - kept).sqrt(),
        "log_one_minus_alphas_cumprod": (1 - kept).log(),
        "sqrt_recip_alphas_cumprod": (1 / kept).sqrt(),
        "sqrt_recipm1_alphas_cumprod": (1 / kept - 1).sqrt(),
        "posterior_variance": variance,
        "posterior_log_variance_clipped": variance.clamp(min=1e-20).log(),
        "posterior_mean_coef1": betas * before.sqrt() / (1 - kept),
        "posterior_mean_coef2": (1 - before) * (1 - betas).sqrt() / (1 - kept),
    }
    if kind == "512-v2":
        found["scale_arr"] = _scale(0.7, TRAIN_TIMESTEPS)
    elif kind == "1024":
        found["scale_arr"] = _scale(0.3, TRAIN_TIMESTEPS - 400)
    return {name: tensor.float() for name, tensor in found.items()}


def _scale(end: float, rest: int) -> Tensor:
    """From 1 to ``end`` in 400 timesteps, then ``rest`` times ``end``."""
    import torch

    return torch.cat([torch.linspace(1.0, end, 400, dtype=torch.float64), torch.full((rest,), end)]).float()


def main() -> None:
    """Command line: ``python -m vader_videocrafter.tiny FOLDER``."""
    parser = argparse.ArgumentParser(
        prog="python -m vader_videocrafter.tiny", description="Write a tiny random VideoCrafter checkpoint."
    )
    parser.add_argument("folder", type=Path, help="where to write model.ckpt")
    parser.add_argument("--seed", type=int, default=0, help="of the random weights")
    parser.add_argument("--kind", choices=KINDS, default=KINDS[0], help="which configuration it imitates")
    arguments = parser.parse_args()
    print(f"wrote {write(arguments.folder, arguments.seed, arguments.kind)}")


if __name__ == "__main__":
    main()
