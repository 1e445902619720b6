"""Checks of backbones, on a tiny random configuration."""

from __future__ import annotations

from typing import Any, cast

import torch
from pydantic import ValidationError
from torch import Tensor, nn

from vader.plugins import registry
from vader.protocols import Backbone, Conditioning, Video
from vader.spec import Options
from vader.testing.checks import Failed, check, expect
from vader.testing.reward import modules_of, unmoved
from vader.testing.subject import Subject

TINY = 50_000_000
"""Parameters that a tiny configuration stays under."""


def live_backbone(subject: Subject) -> Backbone:
    return cast(Backbone, subject.live())


def random_latents(subject: Subject, b: int = 2, seed: int = 0) -> Tensor:
    shape = live_backbone(subject).latent_shape(subject.video)
    return torch.randn(b, *shape, generator=torch.Generator().manual_seed(seed))


@torch.no_grad()
def encoded(subject: Subject, b: int = 2) -> Conditioning:
    return live_backbone(subject).encode(subject.texts(b))


def predicted(backbone: Backbone, denoiser: nn.Module, latents: Tensor, t: float, conditioning: Conditioning) -> Tensor:
    timestep = torch.full((len(latents),), t)
    return backbone.predict(denoiser, latents, timestep, conditioning.positive)


def near(one: Tensor, other: Tensor, tolerance: float) -> bool:
    scale = 1 + float(one.double().abs().max())
    return one.shape == other.shape and bool((one.double() - other.double()).abs().max() <= tolerance * scale)


@check("backbone", needs=("denoiser_is_a_module",))
def a_tiny_configuration_exists(subject: Subject) -> None:
    """It can be built small, so that its tests and a first run of a spec take seconds."""
    count = sum(parameter.numel() for parameter in live_backbone(subject).denoiser.parameters())
    message = f"its denoiser has {count:,} parameters; expected under {TINY:,}. Write tiny.py beside it, with "
    expect(count < TINY, message + "write(folder) -> Path, or give the kit options of a tiny random checkpoint.")


@check("backbone")
def denoiser_is_a_module(subject: Subject) -> None:
    """Its denoiser is one torch module, which carries the adapters."""
    found = getattr(live_backbone(subject), "denoiser", None)
    expect(isinstance(found, nn.Module), f"denoiser is {type(found).__name__}; expected a torch.nn.Module.")


@check("backbone")
def schedule_is_sound(subject: Subject) -> None:
    """Its noise schedule says what the denoiser predicts, one of the declared kinds, and how noise grows."""
    schedule, declared = live_backbone(subject).schedule, subject.capability("predictions")
    kind = schedule.prediction
    expect(kind in declared, f"the checkpoint predicts {kind!r}; its class declares {', '.join(declared)}.")
    table = schedule.alphas_cumprod
    if kind == "flow":
        expect(table is None, "a flow has no alphas_cumprod; leave it None.")
        return
    if table is None:
        raise Failed(f"prediction {kind!r} needs alphas_cumprod.")
    count = schedule.train_timesteps
    expect(tuple(table.shape) == (count,), f"alphas_cumprod has shape {tuple(table.shape)}; expected ({count},).")
    expect(table.dtype == torch.float64, f"alphas_cumprod is {table.dtype}; expected float64.")
    falls = bool((table.diff() < 0).all()) and float(table[-1]) >= 0 and float(table[0]) <= 1
    expect(falls, "alphas_cumprod does not fall from near 1 to near 0.")


@check("backbone")
def default_sampler_fits(subject: Subject) -> None:
    """Its default sampler is installed, takes the options it sets, and integrates what it predicts."""
    name, options = subject.capability("default_sampler"), subject.capability("default_sampler_options")
    sampler = registry.load("sampler", name)
    able = getattr(sampler, "predictions", ())
    made = subject.capability("predictions")
    expect(bool(set(able) & set(made)), f"sampler {name!r} integrates {', '.join(able)}, not {', '.join(made)}.")
    try:
        getattr(sampler, "Options", Options).model_validate(options)
    except ValidationError as error:
        raise Failed(f"sampler {name!r} does not take default_sampler_options = {options}: {error}") from error


@check("backbone", live=False)
def video_is_resolved(subject: Subject) -> None:
    """It says the clip it makes by default, agrees to what it said, and refuses what it cannot make."""
    resolve = subject.component.resolve_video
    video = resolve(subject.options, {})
    expect(isinstance(video, Video), f"resolve_video gave {type(video).__name__}; expected vader.Video.")
    wanted = {"frames": video.frames, "height": video.height, "width": video.width}
    again = resolve(subject.options, wanted)
    expect(again == video, f"it makes {video} by default, and {again} when asked for just that.")
    try:
        refused = resolve(subject.options, {"height": 7, "width": 7})
        shape = (refused.height, refused.width)
        expect(shape == (7, 7), f"asked for 7x7 pixels it silently gives {shape}; raise ValueError instead.")
    except ValueError as error:
        expect(any(sign.isdigit() for sign in str(error)), f"the refusal of 7x7 names no size that works: {error}")


@check("backbone")
def latent_shape_is_right(subject: Subject) -> None:
    """Its latent shape is of whole numbers, and decodes to the clip it stands for."""
    video = subject.video
    shape = live_backbone(subject).latent_shape(video)
    whole = len(shape) > 0 and all(isinstance(size, int) and size > 0 for size in shape)
    expect(whole, f"latent_shape gave {shape}; expected whole numbers above 0, usually (c, f, h, w).")
    found = tuple(_decode(subject, random_latents(subject, 1)).shape)
    wanted = (1, video.frames, 3, video.height, video.width)
    expect(found == wanted, f"latents of {shape} decode to {found}; expected {wanted}.")


@check("backbone", needs=("denoiser_is_a_module",))
def networks_are_frozen(subject: Subject) -> None:
    """No weight asks for a gradient before adapters are put on, and every network is in evaluation mode."""
    for module in [live_backbone(subject).denoiser, *modules_of(live_backbone(subject))]:
        name = type(module).__name__
        count = sum(parameter.requires_grad for parameter in module.parameters())
        expect(count == 0, f"{count} parameters of {name} ask for gradients. Call requires_grad_(False).")
        expect(not module.training, f"{name} is in training mode. Call eval().")


@check("backbone")
def conditioning_has_the_shape(subject: Subject) -> None:
    """Every tensor of both branches has b rows, and a negative branch has the positive one's names."""
    for b in (1, 3):
        found = encoded(subject, b)
        expect(bool(found.positive), "the positive branch is empty; expected what the denoiser is conditioned on.")
        for name, branch in (("positive", found.positive), ("negative", found.negative or {})):
            odd = [key for key, tensor in branch.items() if tensor.shape[:1] != (b,)]
            expect(not odd, f"{name} {', '.join(odd)} of {b} prompts do not have {b} rows.")
        same = found.negative is None or found.negative.keys() == found.positive.keys()
        expect(same, "the negative branch has other names than the positive one.")


@check("backbone", needs=("conditioning_has_the_shape",))
def prompts_are_independent(subject: Subject) -> None:
    """A prompt's conditioning depends on that prompt alone."""
    backbone, prompts = live_backbone(subject), subject.texts(3)
    with torch.no_grad():
        together = backbone.encode(prompts)
        for i, prompt in enumerate(prompts):
            alone = backbone.encode([prompt])
            fine = all(near(row[0], together.positive[name][i], 1e-4) for name, row in alone.positive.items())
            expect(fine, f"the conditioning of {prompt.text!r} differs alone and among others.")


@check("backbone", needs=("conditioning_has_the_shape", "denoiser_is_a_module", "latent_shape_is_right"))
@torch.no_grad()
def prediction_has_the_shape(subject: Subject) -> None:
    """A prediction has the latents' shape and is finite."""
    latents = random_latents(subject)
    backbone = live_backbone(subject)
    found = predicted(backbone, backbone.denoiser, latents, 500.0, encoded(subject))
    expect(found.shape == latents.shape, f"predict gave {tuple(found.shape)} for latents {tuple(latents.shape)}.")
    expect(bool(found.isfinite().all()), "the prediction is not finite at unit noise.")


@check("backbone", needs=("prediction_has_the_shape",))
@torch.no_grad()
def predictions_are_deterministic(subject: Subject) -> None:
    """The same latents give the same prediction, and no global random generator is drawn from."""
    backbone, latents, conditioning = live_backbone(subject), random_latents(subject), encoded(subject)
    seen: list[Tensor] = []
    unmoved(lambda: seen.append(predicted(backbone, backbone.denoiser, latents, 500.0, conditioning)))
    again = predicted(backbone, backbone.denoiser, latents, 500.0, conditioning)
    expect(near(seen[0], again, 1e-6), "the same latents give two predictions. Is a network in training mode?")


@check("backbone", needs=("predictions_are_deterministic",))
@torch.no_grad()
def clips_are_predicted_independently(subject: Subject) -> None:
    """A clip's prediction depends on that clip alone."""
    backbone, latents, conditioning = live_backbone(subject), random_latents(subject, 3), encoded(subject, 3)
    together = predicted(backbone, backbone.denoiser, latents, 500.0, conditioning)
    for i in range(3):
        alone = predicted(backbone, backbone.denoiser, latents[i : i + 1], 500.0, conditioning[i : i + 1])
        expect(near(alone[0], together[i], 1e-4), f"the prediction of clip {i} differs alone and among others.")


@check("backbone", needs=("prediction_has_the_shape",))
@torch.no_grad()
def predict_calls_the_denoiser_it_is_given(subject: Subject) -> None:
    """It calls the module that it is handed, not its own: else processes do not share gradients."""
    backbone = live_backbone(subject)
    given = _Watched(backbone.denoiser)
    predicted(backbone, given, random_latents(subject), 500.0, encoded(subject))
    expect(given.calls > 0, "predict does not call the denoiser that it is given. Use the argument, not self.denoiser.")


class _Watched(nn.Module):
    """Stands in for what accelerate makes of a denoiser."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module, self.calls = module, 0

    def forward(self, *arguments: Any, **named: Any) -> Any:
        self.calls += 1
        return self.module(*arguments, **named)


@check("backbone", needs=("prediction_has_the_shape", "predictions_are_deterministic"))
@torch.no_grad()
def prompt_and_timestep_matter(subject: Subject) -> None:
    """Another prompt and another timestep give another prediction."""
    backbone, latents, conditioning = live_backbone(subject), random_latents(subject, 1), encoded(subject, 2)
    one, other = conditioning[0:1], conditioning[1:2]
    base = predicted(backbone, backbone.denoiser, latents, 500.0, one)
    for what, found in (
        ("prompt", predicted(backbone, backbone.denoiser, latents, 500.0, other)),
        ("timestep", predicted(backbone, backbone.denoiser, latents, 100.0, one)),
    ):
        expect(not torch.equal(base, found), f"the prediction does not depend on the {what}.")


@torch.no_grad()
def _decode(subject: Subject, latents: Tensor, frames: list[int] | None = None) -> Tensor:
    return live_backbone(subject).decode(latents, frames)


@check("backbone", needs=("latent_shape_is_right",))
def frames_are_in_range(subject: Subject) -> None:
    """Decoded frames are in [0, 1], for latents of any size."""
    for scale in (1.0, 10.0):
        found = _decode(subject, scale * random_latents(subject, 1))
        low, high = float(found.min()), float(found.max())
        expect(low >= 0 and high <= 1, f"frames run from {low:.3g} to {high:.3g}; expected [0, 1].")


@check("backbone", needs=("latent_shape_is_right",))
def clips_are_decoded_independently(subject: Subject) -> None:
    """A clip's frames depend on that clip alone."""
    latents = random_latents(subject)
    together, alone = _decode(subject, latents), _decode(subject, latents[1:])
    expect(near(alone[0], together[1], 1e-4), "a clip's frames differ alone and among others.")


@check("backbone", needs=("latent_shape_is_right",))
def chosen_frames_are_those_of_the_whole(subject: Subject) -> None:
    """Decoding chosen frames, in any order, equals choosing them from the whole clip."""
    latents, count = random_latents(subject, 1), subject.video.frames
    whole = _decode(subject, latents)
    for frames in ([0], [count - 1], [count - 1, 0], sorted({0, count // 2, count - 1})):
        found = _decode(subject, latents, frames)
        expect(near(found, whole[:, frames], 1e-4), f"frames {frames} decoded alone differ from those of the clip.")


@check("backbone", needs=("latent_shape_is_right",))
def latents_are_not_changed(subject: Subject) -> None:
    """Prediction and decoding do not write to the latents they are given."""
    backbone, latents, conditioning = live_backbone(subject), random_latents(subject), encoded(subject)
    given = latents.clone()
    with torch.no_grad():
        predicted(backbone, backbone.denoiser, given, 500.0, conditioning)
        backbone.decode(given)
    expect(torch.equal(latents, given), "predict or decode changed the latents in place. Work on a copy.")


@check("backbone", needs=("latent_shape_is_right",))
def gradient_reaches_the_latents(subject: Subject) -> None:
    """The gradient of decoded frames reaches the latents, finite and not zero."""
    latents = (0.3 * random_latents(subject, 1)).requires_grad_(True)
    frames = live_backbone(subject).decode(latents, [0])
    if not frames.requires_grad:
        raise Failed("decoded frames carry no gradient. The caller owns grad mode: use no no_grad and no detach.")
    (gradient,) = torch.autograd.grad(frames.mean(), latents)
    fine = bool(gradient.isfinite().all()) and bool(gradient.abs().max() > 0)
    expect(fine, "the gradient of decoded frames with respect to the latents is zero or not finite.")


@check("backbone", needs=("prediction_has_the_shape",))
def half_precision_is_tolerated(subject: Subject) -> None:
    """Built with bfloat16 weights it predicts and decodes float32 latents, finitely."""
    backbone = cast(Backbone, subject.live(torch.bfloat16))
    with torch.no_grad():
        conditioning, latents = backbone.encode(subject.texts(1)), random_latents(subject, 1)
        found = predicted(backbone, backbone.denoiser, latents, 500.0, conditioning)
        frames = backbone.decode(latents, [0])
    fine = bool(found.isfinite().all()) and bool(frames.isfinite().all())
    expect(fine, "with bfloat16 weights, predictions or frames are not finite.")
