"""Finds a VideoCrafter checkpoint, judges it by names and shapes, and streams it into the networks."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from vader import NoiseSchedule, WeightsError
from vader.sdk import (
    PICKLED,
    SAFETENSORS,
    Conversion,
    compare_shapes,
    first_line,
    hub_file,
    is_hub_id,
    shown,
    user_path,
)
from vader_videocrafter import names, network
from vader_videocrafter.checkpoint import Stored, open_checkpoint
from vader_videocrafter.layout import FIX, PUBLISHED, TEXT, UNET, VAE, Layout, Shapes, read
from vader_videocrafter.schedule import ScaledSchedule

TRAIN_TIMESTEPS = 1000
"""Of every published configuration."""
FILE = "model.ckpt"
"""What the published repositories call their checkpoint."""


@dataclass(frozen=True)
class Parts:
    """The loaded networks, frozen and in evaluation mode, and the process the denoiser was trained on."""

    layout: Layout
    unet: Any
    vae: Any
    text_encoder: Any
    schedule: NoiseSchedule


def locate(weights: str, revision: str | None = None, *, cached: bool = False) -> Path:
    """The local file of a checkpoint; a hub id is downloaded, or taken from the hub's cache, first.

    Args:
        weights: a file, a folder that holds one (``model.safetensors`` goes before ``model.ckpt``), or a hub id.
        revision: of the hub repository.
        cached: look in the hub's cache alone.

    Raises:
        vader.WeightsError: there is nothing of that name.
    """
    path = user_path(weights)
    if revision is not None and path.exists():
        raise WeightsError(f"{weights} is local and has no revision {revision!r}; leave `revision` out.")
    if path.is_file():
        return path
    if path.is_dir():
        found = [path / f"model{SAFETENSORS}", *(path / f"model{suffix}" for suffix in PICKLED)]
        if file := next((candidate for candidate in found if candidate.is_file()), None):
            return file
        raise WeightsError(f"folder {weights} holds no model{SAFETENSORS} and no {FILE}. {FIX}")
    if path.suffix in (SAFETENSORS, *PICKLED) or not is_hub_id(weights):
        raise WeightsError(f"weights {weights!r} is no file or folder here, nor a hub id (owner/name). {FIX}")
    return hub_file(weights, FILE, revision, cached=cached)


def load(path: Path, name: str, device: torch.device, dtype: torch.dtype, text_device: torch.device) -> Parts:
    """The networks of a checkpoint. Names and shapes are judged before any memory is taken.

    One tensor is read at a time. One that is in its device and dtype already stays in the file, mapped, as with
    diffusers' own loader: on a CPU a file in the run's dtype costs next to nothing until its weights are used.

    Args:
        path: as :func:`locate` gives it.
        name: what the user calls it, for errors.
        device: of denoiser and first stage.
        dtype: of denoiser and text encoder; the first stage is held in float32.
        text_device: of the text encoder.

    Raises:
        vader.WeightsError: the file cannot be read, or is of another model.
    """
    stored = open_checkpoint(path, name)
    layout = read(stored.shapes, name)
    networks = checked(stored.shapes, layout, name)
    homes = ((device, dtype), (device, torch.float32), (text_device, dtype))
    for module, renamed, (home, kind) in zip(networks, networks.names(layout), homes, strict=True):
        shapes = {ours: parameter.shape for ours, parameter in module.named_parameters()}
        state = {ours: stored.read(theirs).to(home, kind).reshape(shapes[ours]) for ours, theirs in renamed.items()}
        module.load_state_dict(state, assign=True)
        module.requires_grad_(False).eval()
    networks.text_encoder.attn_mask = networks.text_encoder.build_causal_mask().to(text_device, dtype)
    return Parts(layout, networks.unet, networks.vae, networks.text_encoder, schedule(stored))


@dataclass(frozen=True)
class Networks:
    """Denoiser, first stage and text encoder."""

    unet: Any
    vae: Any
    text_encoder: Any

    def __iter__(self) -> Any:
        return iter((self.unet, self.vae, self.text_encoder))

    def names(self, layout: Layout) -> list[dict[str, str]]:
        """For each network the published name of every parameter, by ours."""
        renamers: tuple[tuple[str, Callable[[str], str | None]], ...] = (
            (UNET, names.unet(layout.unet).theirs),
            (VAE, names.vae(layout.vae).theirs),
            (TEXT, str),
        )
        return [
            {ours: f"{prefix}{rename(ours)}" for ours, _ in module.named_parameters()}
            for module, (prefix, rename) in zip(self, renamers, strict=True)
        ]

    def parameters(self, layout: Layout) -> list[tuple[nn.Parameter, str]]:
        """Every parameter with its published name."""
        pairs = zip(self, self.names(layout), strict=True)
        return [(module.get_parameter(ours), theirs) for module, found in pairs for ours, theirs in found.items()]


def build(layout: Layout) -> Networks:
    """The networks without memory (meta device)."""
    with torch.device("meta"):
        return Networks(
            network.build_unet(layout.unet), network.build_vae(layout.vae), network.build_text_encoder(layout.text)
        )


def checked(shapes: Shapes, layout: Layout, name: str) -> Networks:
    """The networks without memory, for which a checkpoint has every tensor.

    Raises:
        vader.WeightsError: it has not, or its sizes make no network.
    """
    try:
        networks = build(layout)
    except (ValueError, ArithmeticError) as error:
        raise WeightsError(f"the sizes in {name} make no network: {first_line(error)} ({layout}). {FIX}") from error
    judge(networks, shapes, layout, name)
    return networks


def judge(networks: Networks, shapes: Shapes, layout: Layout, name: str) -> None:
    """Every parameter has its tensor, of its shape (ones at the end aside), and no tensor is unknown.

    Raises:
        vader.WeightsError: with the count of each kind of mistake, and names.
    """
    wanted = {theirs: tuple(parameter.shape) for parameter, theirs in networks.parameters(layout)}
    wanted[names.SCHEDULE] = (TRAIN_TIMESTEPS,)
    if names.SCALE in shapes:
        wanted[names.SCALE] = (max(TRAIN_TIMESTEPS, *shapes[names.SCALE]),)
    differ = compare_shapes(_cores(shapes), _cores(wanted))
    missing = differ.missing
    unexpected = [key for key in differ.unexpected if names.unused(key, layout) is None]
    wrong = [f"{key}: {shapes[key]} there, {wanted[key]} here" for key in differ.reshaped]
    if missing or unexpected or wrong:
        raise WeightsError(
            f"{name} does not hold this model: {len(missing)} tensors are missing{shown(missing)}, {len(unexpected)} "
            f"are unexpected{shown(unexpected)}, {len(wrong)} have another shape{shown(wrong)}. {FIX}"
        )


def _cores(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, tuple[int, ...]]:
    return {key: _core(shape) for key, shape in shapes.items()}


def _core(shape: tuple[int, ...]) -> tuple[int, ...]:
    """A shape without the ones at its end: a convolution of width 1 is a linear layer."""
    while len(shape) > 1 and shape[-1] == 1:
        shape = shape[:-1]
    return shape


def schedule(stored: Stored) -> NoiseSchedule:
    """The process a checkpoint was trained on, from its own buffers."""
    scale = stored.read(names.SCALE).double() if names.SCALE in stored.shapes else None
    return ScaledSchedule(
        prediction="epsilon",
        alphas_cumprod=stored.read(names.SCHEDULE).double(),
        config=DIFFUSERS_CONFIG,
        signal_scale=scale,
    )


def denoiser_names(weights: str) -> names.Names:
    """Names of the denoiser's layers in a checkpoint that is here or in the hub's cache; else in the published ones.

    Raises:
        vader.WeightsError: the file that is here cannot be read, or is of another model.
    """
    try:
        path = locate(weights, cached=True)
    except WeightsError:
        if not is_hub_id(weights):
            raise
        return names.unet(PUBLISHED)
    return names.unet(read(open_checkpoint(path, weights).shapes, weights).unet)


def conversion(path: Path, name: str, dtype: torch.dtype | None) -> Conversion:
    """A checkpoint as it is written as safetensors: all its tensors, those of the networks in the loader's order.

    Args:
        path: as :func:`locate` gives it.
        name: what the user calls it, for errors.
        dtype: of denoiser and text encoder; None leaves each tensor as it is. The noise schedule and the first stage,
            which run in float32, stay as they are.

    Raises:
        vader.WeightsError: the file cannot be read, or is no text-to-video checkpoint.
    """
    stored = open_checkpoint(path, name)
    layout = read(stored.shapes, name)
    used = [theirs for _, theirs in checked(stored.shapes, layout, name).parameters(layout)]
    order = list(dict.fromkeys([*used, *stored.shapes]))
    narrow = {key for key in order if key.startswith((UNET, TEXT))} if dtype is not None else set()
    dtypes = {key: dtype if dtype is not None and key in narrow else stored.read(key).dtype for key in order}
    return Conversion({key: stored.shapes[key] for key in order}, dtypes, stored.read)


DIFFUSERS_CONFIG: Mapping[str, Any] = {
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "timestep_spacing": "leading",
    "steps_offset": 1,
    "set_alpha_to_one": False,
    "clip_sample": False,
}
"""The same process in diffusers' words; it knows no scale of the signal."""
