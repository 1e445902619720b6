"""The denoising loop: its gradients against finite differences, its memory, its noise."""

from __future__ import annotations

import itertools
import random
import weakref
from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import Any, Literal

import pytest
import torch
from tests.fakes import Brightness, FakeBackbone, TinyDenoiser, fake_schedule, tiny_conditioning
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.utils._python_dispatch import TorchDispatchMode

from vader import Prompt
from vader.diffusion.gradient import Window, no_gradient, window
from vader.diffusion.rollout import ClipNoise, rollout
from vader.diffusion.samplers.ddim import DDIM
from vader.diffusion.samplers.diffusers import DiffusersScheduler
from vader.diffusion.samplers.flow_euler import FlowEuler
from vader.protocols import Backbone, NoiseSchedule, Runtime, Sampler, SamplerContext, StepOutput, Video

Branches = Literal["both", "conditional"]
CPU = torch.device("cpu")
STEPS = 5
SHAPE = (3, 2, 2, 2)
SEEDS = (11, 12)
CONDITIONING = tiny_conditioning(len(SEEDS))

WINDOWS = {
    "last": window("last", STEPS),
    "tail 3": window("tail", STEPS, k=3),
    "rand": window("rand", STEPS),
    "specific 1": window("specific", STEPS, from_step=1),
    "all": window("tail", STEPS, k=STEPS),
    "last, original": window("last", STEPS, original=True),
    "specific 2, original": window("specific", STEPS, from_step=2, original=True),
}


def context(schedule: NoiseSchedule, steps: int = STEPS, eta: float = 0.0) -> SamplerContext:
    return SamplerContext(schedule, steps, eta, Video(2, 8, 8), CPU)


def ddim(steps: int = STEPS, eta: float = 0.7) -> DDIM:
    return DDIM(DDIM.Options(spacing="trailing"), context(fake_schedule(), steps, eta))


def flow_euler() -> FlowEuler:
    return FlowEuler(FlowEuler.Options(), context(fake_schedule("flow", shift=3.0)))


def unipc() -> DiffusersScheduler:
    options = DiffusersScheduler.Options(scheduler="UniPCMultistepScheduler")
    return DiffusersScheduler(options, context(fake_schedule("flow", shift=3.0)))


def noise(dtype: torch.dtype = torch.float64) -> ClipNoise:
    return ClipNoise(SEEDS, SHAPE, CPU, dtype)


def loss_of(latents: Tensor) -> Tensor:
    """Smooth, non-linear, and different in every element."""
    return (torch.sin(latents) * torch.linspace(-1, 2, latents.numel(), dtype=latents.dtype).view_as(latents)).sum()


def gradient_of(model: TinyDenoiser, sampler: Sampler, chosen: Window, **options: Any) -> Tensor:
    loss = loss_of(rollout(model.predict, sampler, CONDITIONING, noise(), chosen, **options))
    return torch.cat([g.flatten() for g in torch.autograd.grad(loss, [model.lora_a, model.lora_b])])


def truncated(
    make: Callable[[], Sampler], chosen: Window, scale: float, branches: Branches
) -> Callable[[Tensor], Tensor]:
    """The function whose true gradient the truncated one is, written out without :mod:`vader.diffusion.rollout`.

    Steps before the window are made by the unmoved model, whatever the argument; with ``branches`` conditional the
    unconditional predictions inside the window are the unmoved model's, recorded once.
    """
    base, moved = TinyDenoiser(), TinyDenoiser()
    recorded: dict[int, Tensor] = {}

    @torch.no_grad()
    def function(adapter: Tensor) -> Tensor:
        nn.utils.vector_to_parameters(adapter, [moved.lora_a, moved.lora_b])
        sampler, draws = make(), noise()
        x = draws.draw()
        for i in range(chosen.start + 1 if chosen.original else chosen.stop):
            inside = chosen.start <= i
            model = moved if inside else base
            t = sampler.timesteps[i].expand(len(SEEDS))
            output = model(x, t, CONDITIONING.positive["embeds"])
            if scale != 1.0:
                blank = model(x, t, CONDITIONING.negative["embeds"])
                if inside and branches == "conditional":
                    blank = recorded.setdefault(i, blank)
                output = blank + scale * (output - blank)
            step = sampler.step(output, i, x, draws.draw())
            x = step.pred_x0 if chosen.original and i == chosen.start else step.prev
        return loss_of(x)

    function(parameters(base))
    return function


def parameters(model: TinyDenoiser) -> Tensor:
    return nn.utils.parameters_to_vector([model.lora_a, model.lora_b]).detach()


def finite_differences(function: Callable[[Tensor], Tensor], at: Tensor, step: float = 1e-5) -> Tensor:
    shifts = step * torch.eye(len(at), dtype=at.dtype)
    return torch.stack([(function(at + shift) - function(at - shift)) / (2 * step) for shift in shifts])


def assert_true_gradient(
    make: Callable[[], Sampler], chosen: Window, scale: float = 1.0, branches: Branches = "both"
) -> None:
    model = TinyDenoiser()
    found = gradient_of(model, make(), chosen, guidance_scale=scale, branches=branches)
    expected = finite_differences(truncated(make, chosen, scale, branches), parameters(model))
    assert expected.norm() > 1e-3
    assert (found - expected).norm() / expected.norm() <= 1e-5


class TestGradientAgainstFiniteDifferences:
    @pytest.mark.parametrize("mode", WINDOWS)
    @pytest.mark.parametrize("make", [ddim, flow_euler])
    def test_without_guidance(self, mode: str, make: Callable[[], Sampler]) -> None:
        assert_true_gradient(make, WINDOWS[mode](random.Random(3)))

    @pytest.mark.parametrize("mode", WINDOWS)
    @pytest.mark.parametrize("branches", ["both", "conditional"])
    def test_with_guidance(self, mode: str, branches: Branches) -> None:
        assert_true_gradient(ddim, WINDOWS[mode](random.Random(3)), 2.5, branches)

    @pytest.mark.parametrize("mode", ["tail 3", "specific 2, original"])
    def test_through_the_memory_of_a_multistep_solver(self, mode: str) -> None:
        assert_true_gradient(unipc, WINDOWS[mode](random.Random(3)), 2.5)

    def test_the_rand_draw_used_here_is_neither_the_last_step_nor_all(self) -> None:
        assert 1 < STEPS - WINDOWS["rand"](random.Random(3)).start < STEPS

    def test_windows_and_branches_have_gradients_of_their_own(self) -> None:
        model = TinyDenoiser()
        found = [
            gradient_of(model, ddim(), Window(STEPS - k, STEPS, original), guidance_scale=2.5, branches=branches)
            for k in (1, 2, 3)
            for original in (False, True)
            for branches in ("both", "conditional")
        ]
        gaps = torch.cdist(torch.stack(found), torch.stack(found)) + torch.eye(len(found))
        assert gaps.min() > 1e-2


class TestRecomputation:
    @pytest.mark.parametrize("branches", ["both", "conditional"])
    @pytest.mark.parametrize("original", [False, True])
    def test_gives_the_gradient_of_plain_autograd(self, branches: Branches, original: bool) -> None:
        model, chosen = TinyDenoiser(), Window(1, STEPS, original)
        least, auto, plain = (
            gradient_of(model, ddim(), chosen, guidance_scale=3.0, branches=branches, recompute=recompute)
            for recompute in (True, "auto", False)
        )
        assert torch.equal(auto, plain)
        torch.testing.assert_close(least, plain, rtol=1e-12, atol=0)

    @pytest.mark.parametrize(
        ("recompute", "again"),
        [(True, {2: 1, 3: 1, 4: 1}), ("auto", {2: 1, 3: 1}), (False, {})],
    )
    @pytest.mark.parametrize("guidance_scale", [1.0, 3.0])
    def test_calls_the_denoiser_again_only_for_steps_of_the_window(
        self, recompute: Any, again: dict[int, int], guidance_scale: float
    ) -> None:
        """The last step is what backward comes to first: "auto" keeps it. Apart, both branches are called again."""
        calls: list[int] = []

        def predict(*arguments: Any) -> Tensor:
            calls.append(sampler.timesteps.tolist().index(int(arguments[1][0])))
            return model.predict(*arguments)

        model, sampler = TinyDenoiser(), ddim()
        chosen = Window(2, STEPS)
        options = {"recompute": recompute, "guidance_scale": guidance_scale}
        latents = rollout(predict, sampler, CONDITIONING, noise(), chosen, **options)
        branches = 2 if recompute is True and guidance_scale != 1 else 1
        assert calls == [i for i in range(STEPS) for _ in range(branches if i in chosen else 1)]
        made = len(calls)
        loss_of(latents).backward()
        assert Counter(calls[made:]) == {i: n * branches for i, n in again.items()}

    @pytest.mark.parametrize(
        ("chosen", "kept"),
        [
            (Window(4, STEPS), 4),
            (Window(1, STEPS, original=True), 1),
            (Window(1, STEPS, only=frozenset({1, 3})), 3),
            (no_gradient(STEPS), -1),
        ],
    )
    def test_the_first_step_in_backward_is_the_last_that_is_differentiated(self, chosen: Window, kept: int) -> None:
        assert chosen.first_in_backward == kept


class TestGraph:
    def collect(self, chosen: Window, **options: Any) -> list[StepOutput]:
        steps: list[StepOutput] = []
        model = TinyDenoiser()
        rollout(model.predict, ddim(), CONDITIONING, noise(), chosen, on_step=lambda *s: steps.append(s[2]), **options)
        return steps

    def test_is_built_inside_the_window_only(self) -> None:
        assert [s.prev.requires_grad for s in self.collect(Window(3, STEPS))] == [False, False, False, True, True]

    def test_is_not_built_by_a_generation(self) -> None:
        assert not any(s.prev.requires_grad for s in self.collect(no_gradient(STEPS)))

    def test_is_not_built_under_the_callers_no_grad(self) -> None:
        with torch.no_grad():
            assert not any(s.prev.requires_grad for s in self.collect(Window(0, STEPS)))

    def test_original_stops_after_the_first_step_of_the_window(self) -> None:
        assert len(self.collect(Window(2, STEPS, original=True))) == 3

    def test_original_returns_the_predicted_clean_latents(self) -> None:
        steps: list[StepOutput] = []
        model, chosen = TinyDenoiser(), Window(2, STEPS, original=True)
        on_step = lambda *s: steps.append(s[2])  # noqa: E731
        latents = rollout(model.predict, ddim(), CONDITIONING, noise(), chosen, on_step=on_step)
        assert torch.equal(latents, steps[-1].pred_x0)
        assert not torch.equal(latents, steps[-1].prev)

    def test_on_step_sees_the_trajectory(self) -> None:
        seen: list[tuple[int, Tensor, StepOutput]] = []
        model = TinyDenoiser()
        on_step = lambda *s: seen.append(s)  # noqa: E731
        end = rollout(model.predict, ddim(), CONDITIONING, noise(), no_gradient(STEPS), on_step=on_step)
        assert [i for i, _, _ in seen] == list(range(STEPS))
        assert torch.equal(seen[0][1], noise().draw())
        assert all(torch.equal(a[2].prev, b[1]) for a, b in itertools.pairwise(seen))
        assert torch.equal(end, seen[-1][2].prev)


class Wide(nn.Module):
    """A denoiser whose activations dominate."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.up = nn.Parameter(torch.randn(400, 3, generator=generator) / 2)
        self.down = nn.Parameter(torch.randn(3, 400, generator=generator) / 20)

    def forward(self, latents: Tensor, *_: Any) -> Tensor:
        hidden = torch.tanh(torch.einsum("hc,b...c->b...h", self.up, latents.movedim(1, -1)))
        return torch.einsum("ch,b...h->b...c", self.down, hidden).movedim(-1, 1)


class LiveBytes(TorchDispatchMode):
    """Bytes of all tensors made under it that are alive, and the most there were at once."""

    def __init__(self) -> None:
        super().__init__()
        self.alive: dict[int, int] = {}
        self.peak = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for tensor in out if isinstance(out, (tuple, list)) else (out,):
            if isinstance(tensor, Tensor):
                storage = tensor.untyped_storage()
                key = storage._cdata
                if key not in self.alive:
                    self.alive[key] = storage.nbytes()
                    weakref.finalize(storage, self.alive.pop, key, None)
        self.peak = max(self.peak, sum(self.alive.values()))
        return out


class TestMemory:
    """Acceptance: with either recomputation, K = 8 needs at most 1.15 times the memory of K = 1.

    What recomputation cannot save is each step's input, one set of latents; here one step saves over 100 times that.
    """

    SHAPE = (3, 4, 8, 8)
    LATENTS = len(SEEDS) * 3 * 4 * 8 * 8 * 4  # bytes

    def run(self, k: int, recompute: Any) -> Tensor:
        model = Wide()
        predict = lambda x, t, branch: model(x)  # noqa: E731
        clips = ClipNoise(SEEDS, self.SHAPE, CPU, torch.float32)
        return loss_of(rollout(predict, ddim(8), CONDITIONING, clips, Window(8 - k, 8), recompute=recompute))

    def saved(self, k: int, recompute: Any) -> int:
        """Bytes that autograd saves in the forward pass."""
        storages: dict[int, int] = {}

        def pack(tensor: Tensor) -> Tensor:
            storages[tensor.untyped_storage()._cdata] = tensor.untyped_storage().nbytes()
            return tensor

        with saved_tensors_hooks(pack, lambda tensor: tensor):
            loss = self.run(k, recompute)
        del loss  # kept until here, so that no address was used twice
        return sum(storages.values())

    def held(self, k: int, recompute: Any) -> int:
        """The most bytes that autograd holds at once: those of the forward pass and those of one recomputed step.

        With "auto" the step that is kept is gone when the next one is recomputed.
        """
        again = self.saved(1, False)
        return self.saved(k, recompute) + (again if recompute is True else 0)

    def peak(self, k: int, recompute: Any) -> int:
        with LiveBytes() as live:
            self.run(k, recompute).backward()
        return live.peak

    @pytest.mark.parametrize("recompute", [True, "auto"])
    def test_held_by_autograd_does_not_grow_with_the_window(self, recompute: Any) -> None:
        assert self.held(8, recompute) <= 1.15 * self.held(1, recompute)

    @pytest.mark.parametrize("recompute", [True, "auto"])
    def test_saved_per_recomputed_step_is_one_set_of_latents(self, recompute: Any) -> None:
        """A kept step whose input has gradient refers to its weights besides, which are there anyway."""
        weights = sum(parameter.nbytes for parameter in Wide().parameters()) if recompute == "auto" else 0
        grown = self.saved(8, recompute) - self.saved(1, recompute)
        assert 7 * self.LATENTS <= grown <= 7 * self.LATENTS + weights

    def test_saved_by_autograd_grows_with_the_window_without_recomputation(self) -> None:
        assert self.saved(8, False) > 6 * self.saved(1, False)

    @pytest.mark.parametrize("recompute", [True, "auto"])
    def test_peak_in_backward_does_not_grow_with_the_window(self, recompute: Any) -> None:
        assert self.peak(1, recompute) > 100 * self.LATENTS
        assert self.peak(8, recompute) <= 1.15 * self.peak(1, recompute)

    def test_peak_grows_with_the_window_without_recomputation(self) -> None:
        assert self.peak(8, False) > 3 * self.peak(1, False)


class TestClipNoise:
    def test_depends_on_the_clips_seed_and_not_on_its_batch(self) -> None:
        together = ClipNoise((5, 6, 7), SHAPE, CPU, torch.float32)
        alone, reordered = (ClipNoise(s, SHAPE, CPU, torch.float32) for s in ((6,), (7, 5, 6)))
        for _ in range(3):
            rows = together.draw()
            assert torch.equal(alone.draw()[0], rows[1])
            assert torch.equal(reordered.draw(), rows[[2, 0, 1]])

    def test_is_new_at_every_draw_and_for_every_seed(self) -> None:
        source = noise()
        first, second = source.draw(), source.draw()
        assert not torch.equal(first, second)
        assert not torch.equal(first[0], first[1])

    def test_is_unit_normal(self) -> None:
        values = ClipNoise((1,), (4, 8, 32, 32), CPU, torch.float64).draw()
        assert abs(values.mean()) < 0.02
        assert abs(values.std() - 1) < 0.02

    def test_uses_no_global_random_numbers(self) -> None:
        before = torch.get_rng_state()
        model = TinyDenoiser()
        rollout(model.predict, ddim(), CONDITIONING, noise(), Window(0, STEPS))
        assert torch.equal(before, torch.get_rng_state())

    @pytest.mark.parametrize("eta", [0.0, 1.0])
    @pytest.mark.parametrize("original", [False, True])
    def test_is_drawn_once_to_start_and_once_per_step_that_adds_some(self, eta: float, original: bool) -> None:
        source, expected = noise(), noise()
        model, chosen = TinyDenoiser(), Window(2, STEPS, original)
        rollout(model.predict, ddim(eta=eta), CONDITIONING, source, chosen)
        for _ in range(1 + (eta > 0) * (3 if original else STEPS)):
            expected.draw()
        assert torch.equal(source.draw(), expected.draw())

    def test_gives_a_clip_the_same_latents_alone_and_in_a_batch(self) -> None:
        model = TinyDenoiser()
        both = rollout(model.predict, ddim(eta=1.0), CONDITIONING, noise(), no_gradient(STEPS), guidance_scale=2.0)
        second = ClipNoise(SEEDS[1:], SHAPE, CPU, torch.float64)
        alone = rollout(model.predict, ddim(eta=1.0), CONDITIONING[1:], second, no_gradient(STEPS), guidance_scale=2.0)
        torch.testing.assert_close(alone[0], both[1], rtol=1e-12, atol=1e-12)


class TestFakeBackbone:
    """The stand-in that other tests train must itself be what the protocol asks for."""

    @pytest.mark.parametrize("prediction", ["epsilon", "v", "sample"])
    def test_makes_clips_that_are_neither_black_nor_white(self, prediction: str) -> None:
        fake = FakeBackbone(FakeBackbone.Options(prediction=prediction), Runtime(CPU, torch.float32))
        sampler = DDIM(DDIM.Options(), context(fake.schedule))
        clips = ClipNoise(SEEDS, (4, 4, 4, 4), CPU, torch.float32)
        latents = rollout(
            partial(fake.predict, fake.denoiser), sampler, fake.encode([Prompt("a"), Prompt("b")]), clips, Window(5, 5)
        )
        frames = fake.decode(latents)
        assert ((frames > 0) & (frames < 1)).float().mean() > 0.7

    @pytest.mark.parametrize("gradient_checkpointing", [False, True])
    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
    def test_carries_gradient_from_reward_to_adapter(self, dtype: torch.dtype, gradient_checkpointing: bool) -> None:
        from peft import LoraConfig, inject_adapter_in_model

        before = torch.get_rng_state()
        fake = FakeBackbone(FakeBackbone.Options(), Runtime(CPU, dtype))
        assert torch.equal(before, torch.get_rng_state())
        assert isinstance(fake, Backbone)
        if gradient_checkpointing:
            fake.enable_gradient_checkpointing()
        lora = LoraConfig(r=2, target_modules=list(fake.lora_target_modules), init_lora_weights=False)
        inject_adapter_in_model(lora, fake.denoiser)
        predict = partial(fake.predict, fake.denoiser)
        clips = ClipNoise(SEEDS, fake.latent_shape(fake.resolve_video(fake.Options(), {})), CPU, dtype)
        latents = rollout(
            predict, ddim(), fake.encode([Prompt("red"), Prompt("blue")]), clips, Window(3, STEPS), guidance_scale=3.0
        )
        frames = fake.decode(latents, [2, 0])
        assert torch.equal(frames, fake.decode(latents)[:, [2, 0]])
        assert (frames.shape, frames.dtype) == ((2, 2, 3, 8, 8), dtype)
        Brightness(Brightness.Options()).score(frames, []).sum().backward()
        gradients = [p.grad for p in fake.denoiser.parameters() if p.requires_grad]
        assert len(gradients) == 4
        assert all(g is not None and g.norm() > 1e-6 for g in gradients)
