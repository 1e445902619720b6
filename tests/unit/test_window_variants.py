"""Windows that are more than a tail: which steps are differentiated, and what the denoiser's input hands on."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable

import pytest
import torch
from tests.fakes import TinyDenoiser
from tests.unit.test_rollout import (
    CONDITIONING,
    SEEDS,
    STEPS,
    ddim,
    finite_differences,
    flow_euler,
    gradient_of,
    loss_of,
    noise,
    parameters,
    unipc,
)
from torch import Tensor, nn

from vader.diffusion.gradient import Draw, Window, window
from vader.protocols import Sampler

VARIANTS: dict[str, Draw] = {
    "uniform 2": window("uniform", STEPS, k=2),
    "uniform 3": window("uniform", STEPS, k=3),
    "subset 2": window("subset", STEPS, k=2),
    "tail 3, stop gradient": window("tail", STEPS, k=3, detach_input=True),
    "uniform 2, stop gradient (DRTune)": window("uniform", STEPS, k=2, detach_input=True),
    "rand, original (ReFL)": window("rand", STEPS, k=4, original=True),
}


def surrogate(make: Callable[[], Sampler], chosen: Window) -> Callable[[Tensor], Tensor]:
    """The function whose true gradient the variant's is, written out without :mod:`vader.diffusion.rollout`.

    A step that is not differentiated repeats the prediction of the unmoved model; with ``detach_input`` the moved model
    sees the latents of the unmoved run, while the sampler goes on from the moved ones.
    """
    base, moved = TinyDenoiser(), TinyDenoiser()
    seen: dict[int, Tensor] = {}
    repeated: dict[int, Tensor] = {}

    @torch.no_grad()
    def function(adapter: Tensor) -> Tensor:
        nn.utils.vector_to_parameters(adapter, [moved.lora_a, moved.lora_b])
        sampler, draws = make(), noise()
        x = draws.draw()
        for i in range(chosen.start + 1 if chosen.original else STEPS):
            t = sampler.timesteps[i].expand(len(SEEDS))
            own = seen.setdefault(i, x) if chosen.detach_input else x
            differentiated = i >= chosen.start if chosen.only is None else i in chosen.only
            if differentiated:
                output = moved(own, t, CONDITIONING.positive["embeds"])
            elif i in repeated:
                output = repeated[i]
            else:
                output = repeated.setdefault(i, base(x, t, CONDITIONING.positive["embeds"]))
            step = sampler.step(output, i, x, draws.draw())
            x = step.pred_x0 if chosen.original and i == chosen.start else step.prev
        return loss_of(x)

    function(parameters(base))
    return function


@pytest.mark.parametrize("name", VARIANTS)
@pytest.mark.parametrize("make", [ddim, flow_euler, unipc])
@pytest.mark.parametrize("seed", [3, 5])
def test_gradients_equal_finite_differences(name: str, make: Callable[[], Sampler], seed: int) -> None:
    chosen = VARIANTS[name](random.Random(seed))
    found = gradient_of(TinyDenoiser(), make(), chosen)
    expected = finite_differences(surrogate(make, chosen), parameters(TinyDenoiser()))
    assert expected.norm() > 1e-3
    assert (found - expected).norm() / expected.norm() <= 1e-5


@pytest.mark.parametrize("recompute", [True, False])
def test_recomputation_changes_nothing(recompute: bool) -> None:
    chosen = Window(1, STEPS, only=frozenset({1, 3}), detach_input=True)
    found = gradient_of(TinyDenoiser(), ddim(), chosen, recompute=recompute)
    assert torch.equal(found, gradient_of(TinyDenoiser(), ddim(), chosen))


def test_each_variant_has_a_gradient_of_its_own() -> None:
    """Of the steps 1 and 3: all from 1 on, these two alone, and these two with their inputs cut off."""
    model = TinyDenoiser()
    pairs = frozenset({1, 3})
    windows = [Window(1, STEPS), Window(1, STEPS, only=pairs), Window(1, STEPS, only=pairs, detach_input=True)]
    found = torch.stack([gradient_of(model, ddim(), chosen) for chosen in windows])
    assert (torch.cdist(found, found) + torch.eye(3)).min() > 1e-2


class TestDraws:
    def steps(self, chosen: Window) -> list[int]:
        return [step for step in range(STEPS) if step in chosen]

    def test_uniform_steps_are_evenly_spaced_at_every_offset(self) -> None:
        draw = window("uniform", 10, k=3)
        found = {tuple(step for step in range(10) if step in draw(random.Random(seed))) for seed in range(200)}
        assert found == {(offset, offset + 3, offset + 6) for offset in range(4)}

    def test_subset_takes_every_pair_equally_often(self) -> None:
        rng, draw = random.Random(0), window("subset", STEPS, k=2)
        counts = Counter(tuple(self.steps(draw(rng))) for _ in range(4000))
        assert len(counts) == 10
        assert max(abs(count - 400) for count in counts.values()) < 100  # five standard deviations

    def test_rand_stays_within_k(self) -> None:
        rng, draw = random.Random(0), window("rand", STEPS, k=2)
        assert Counter(STEPS - draw(rng).start for _ in range(100)).keys() == {1, 2}

    def test_k_counts_the_steps_that_are_differentiated(self) -> None:
        assert Window(1, STEPS).k == STEPS - 1
        assert Window(1, STEPS, original=True).k == 1
        assert Window(1, STEPS, only=frozenset({1, 3})).k == 2
