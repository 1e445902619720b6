"""The reference's numbers, to 1e-4: denoiser, first stage, sampler, and gradients through all of them."""

import functools
import json
from pathlib import Path

import pytest
import torch

from vader import Conditioning, SamplerContext, Video
from vader.diffusion.gradient import Window
from vader.diffusion.rollout import rollout
from vader.spec import AdapterSpec
from vader.weights import lora as adapters
from vader_videocrafter import layout, lora, names, network
from vader_videocrafter.sampler import VideoCrafterDDIM, VideoCrafterDDIMOptions

TOLERANCE = 1e-4
GOLDEN = Path(__file__).resolve().parents[3] / "tests" / "golden"
STEPS, GUIDANCE = 4, 12.0
VIDEO = Video(4, 16, 16, 24.0)


def close(found, expected, tolerance=TOLERANCE):
    """Equal relative to the size of the whole tensor."""
    assert found.shape == expected.shape
    assert expected.norm() > 0
    distance = float((found.detach() - expected).norm() / expected.norm())
    assert distance < tolerance, distance


def filled(module, tensors, prefix, names):
    """A network with golden weights."""
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            parameter.copy_(tensors[prefix + names.theirs(name)].reshape(parameter.shape))
    return module.requires_grad_(False).eval()


def with_adapter(denoiser, state, table):
    """The denoiser with a golden adapter (rank 4, alpha 8), its tensors given by published name."""
    adapters.inject(denoiser, AdapterSpec(rank=4, alpha=lora.ALPHA), lora.TARGETS, seed=0)
    adapters.restore(denoiser, {table.ours(key.removeprefix(lora.PREFIX)): value for key, value in state.items()}, "it")


def gradients(denoiser, table):
    """Of the adapter, by published name."""
    named = [(name.replace(".default.", "."), p.grad) for name, p in denoiser.named_parameters() if p.requires_grad]
    return {lora.PREFIX + table.theirs(name): grad for name, grad in named}


def part(tensors, prefix):
    return {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}


# -- denoiser


@pytest.fixture(scope="module")
def unet_layout(golden):
    shapes = {layout.UNET + key: tuple(value.shape) for key, value in part(golden("unet"), "sd.").items()}
    return layout.read_unet(shapes)


@pytest.fixture
def unet(golden, unet_layout):
    return filled(network.build_unet(unet_layout), golden("unet"), "sd.", names.unet(unet_layout))


def test_layout_of_the_golden_denoiser(unet_layout):
    assert unet_layout == layout.UNetLayout(4, (32, 64), (True, True), 1, 8, 16, True, True, None)


@torch.no_grad()
def test_denoiser(golden, unet):
    numbers = golden("unet")

    def run(x, fps):
        return unet(x, numbers["timesteps"], numbers["context"], timestep_cond=fps, return_dict=False)[0]

    close(run(numbers["x"], numbers["fps"]), numbers["out.base"])
    close(run(numbers["x"], torch.full((2,), 16.0)), numbers["out.base_fps_default16"])
    close(run(numbers["x"][:, :, :3], numbers["fps"]), numbers["out.base_shorter"])


@pytest.mark.parametrize("recompute", [False, True])
def test_denoiser_with_adapter_and_its_gradients(golden, unet, unet_layout, recompute):
    numbers, table = golden("unet"), names.unet(unet_layout)
    with_adapter(unet, part(numbers, "lora."), table)
    if recompute:
        network.recompute_blocks(unet)
    x, context = (numbers[key].clone().requires_grad_() for key in ("x", "context"))
    out = unet(x, numbers["timesteps"], context, timestep_cond=numbers["fps"], return_dict=False)[0]
    close(out, numbers["out.lora"])
    loss = out.square().mean()
    close(loss, numbers["loss"])
    loss.backward()
    close(x.grad, numbers["grad.x"])
    close(context.grad, numbers["grad.context"])
    found, expected = gradients(unet, table), part(numbers, "grad.base_model")
    assert found.keys() == {f"base_model{key}" for key in expected}
    assert len(found) == 180
    for key, value in expected.items():
        close(found[f"base_model{key}"], value)


# -- first stage


@pytest.fixture(scope="module")
def vae(golden):
    shapes = {layout.VAE + key: tuple(value.shape) for key, value in part(golden("vae"), "sd.").items()}
    sizes = layout.read_vae(shapes)
    assert sizes == layout.VAELayout(4, (32, 64), 1)
    return filled(network.build_vae(sizes), golden("vae"), "sd.", names.vae(sizes))


@pytest.mark.parametrize("at_once", [1, 2, 8])
def test_decode_and_its_gradient(golden, vae, at_once):
    numbers = golden("vae")
    z = numbers["z"].clone().requires_grad_()
    clip = network.pixels(vae, z, at_once).transpose(1, 2)
    close(clip, numbers["out.decode_first_stage_2DAE"])
    clip.square().mean().backward()
    close(z.grad, numbers["grad.z"])


@torch.no_grad()
def test_first_stage_as_diffusers_has_it(golden, vae):
    numbers = golden("vae")
    posterior = vae.encode(numbers["img"]).latent_dist
    close(posterior.mean, numbers["out.encode_mean"])
    close(posterior.logvar, numbers["out.encode_logvar"])
    close(posterior.mode() * network.VAE_SCALE, numbers["out.encode_mode_scaled"])
    close(vae.decode(numbers["z"][:, :, 0]).sample, numbers["out.raw_decode_no_scale"])
    assert vae.config.scaling_factor == network.VAE_SCALE


# -- sampler


class Recorded:
    """Hands out the reference's noise: the start, then one tensor a step."""

    def __init__(self, numbers):
        self._queue = [numbers["x_T"], *(numbers[f"noise.{i}"] for i in range(STEPS))]

    def draw(self):
        return self._queue.pop(0)


@pytest.fixture
def ddim(golden_file, load):
    """The golden backbone, read from a checkpoint in the published format, with the published adapter's golden twin."""
    return load(golden_file)


def sampler(backbone, eta, steps=STEPS, **options):
    context = SamplerContext(backbone.schedule, steps, eta, VIDEO, torch.device("cpu"))
    return VideoCrafterDDIM(VideoCrafterDDIMOptions(**options), context)


def sample(backbone, numbers, eta, window, on_step=None):
    rate = {"fps": numbers["fps"].float()}
    return rollout(
        functools.partial(backbone.predict, backbone.denoiser),
        sampler(backbone, eta),
        Conditioning({"embeds": numbers["cond"], **rate}, {"embeds": numbers["uncond"], **rate}),
        Recorded(numbers),
        window,
        guidance_scale=GUIDANCE,
        on_step=on_step,
    )


@pytest.fixture
def adapted(golden, ddim):
    with_adapter(ddim.denoiser, part(golden("ddim"), "lora."), names.unet(ddim.layout.unet))
    return ddim


def test_the_checkpoints_own_buffers_are_the_schedule(golden, ddim):
    numbers = golden("ddim")
    assert torch.equal(ddim.schedule.alphas_cumprod.float(), numbers["buf.alphas_cumprod"])
    assert torch.equal(ddim.schedule.signal_scale.float(), numbers["buf.scale_arr"])
    assert len(ddim.schedule.signal_scale) == 1400


@torch.no_grad()
@pytest.mark.parametrize("eta", [0, 1])
def test_sampling(golden, adapted, eta):
    numbers, seen = golden("ddim"), []
    latents = sample(adapted, numbers, eta, Window(STEPS, STEPS), lambda i, x, step: seen.append((x, step)))
    for i, (before, step) in enumerate(seen):
        close(before, numbers[f"eta{eta}.x_inter.{i}"])
        close(step.prev, numbers[f"eta{eta}.x_inter.{i + 1}"])
        torch.testing.assert_close(step.prev, step.mean + step.std * numbers[f"noise.{i}"])
    close(seen[-1][1].pred_x0, numbers[f"eta{eta}.pred_x0.4"])
    close(latents, numbers[f"eta{eta}.final_latent"])
    clip = numbers[f"eta{eta}.video"][:, 0].transpose(1, 2)
    close(network.pixels(adapted.vae, latents, 1), clip)
    torch.testing.assert_close(adapted.decode(latents), (clip / 2 + 0.5).clamp(0, 1), rtol=0, atol=1e-4)


RUNS_FILE = GOLDEN / "videocrafter_ddim_a.json"
RUNS = {
    "train_last": (3, [1]),
    "train_cut2": (2, [0]),
    "train_last_alt": (3, [0, 2]),
    "train_last_all": (3, [0, 1, 2, 3]),
    "train_last_rand": (3, [3]),
}


@pytest.mark.parametrize("name", RUNS)
def test_training(golden, adapted, name):
    """Clip, loss and gradients of the adapter for gradient windows and frame modes."""
    start, frames = RUNS[name]
    numbers = golden("ddim")
    latents = sample(adapted, numbers, 1, Window(start, STEPS))
    clip = network.pixels(adapted.vae, latents[:, :, frames], 1)
    close(clip, numbers[f"{name}.video"][:, 0].transpose(1, 2))
    loss = clip.square().mean()
    close(loss, numbers[f"{name}.loss"])
    loss.backward()
    found = gradients(adapted.denoiser, names.unet(adapted.layout.unet))
    recorded = json.loads(RUNS_FILE.read_text())["runs"][name]
    norm = torch.stack([grad.norm() for grad in found.values()]).norm()
    assert float(norm) == pytest.approx(recorded["gradnorm"], rel=TOLERANCE)
    expected = part(numbers, f"{name}.grad.")
    assert len(expected) == (108 if name in ("train_last", "train_cut2") else 0)
    for key, value in expected.items():
        close(found[key], value)


@pytest.mark.parametrize("steps", [4, 5, 20, 25, 40, 50, 100])
def test_timesteps_where_steps_divide_a_thousand(ddim, steps):
    table = json.loads(RUNS_FILE.read_text())["ddim_timestep_tables"][str(steps)]["timesteps"]
    assert sampler(ddim, 0.0, steps).timesteps.tolist() == table[::-1]


@pytest.mark.parametrize("steps", [25, 50])
@pytest.mark.parametrize("eta", [0, 1])
def test_tables(golden, ddim, steps, eta):
    """With zero output and unit latents a step shows its coefficients."""
    numbers, one = golden("ddim"), torch.ones(1, 1, 1, 1, 1, dtype=torch.float64)
    made = sampler(ddim, float(eta), steps, use_scale=False)
    alpha, before = (numbers[f"table.S{steps}.{name}"].double().flip(0) for name in ("alphas", "alphas_prev"))
    found = [made.step(0 * one, i, one, one) for i in range(steps)]
    sigma = numbers[f"table.S{steps}.sigmas_eta{eta}"].double().flip(0)
    assert torch.stack([step.std for step in found]) == pytest.approx(sigma, rel=1e-5)
    mean = torch.stack([step.mean.squeeze() for step in found])
    assert mean == pytest.approx((before / alpha).sqrt(), rel=1e-5)
