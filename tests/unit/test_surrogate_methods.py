"""FlowBP and LeapAlign against their formulas, written out in float64 (arXiv 2606.11075, 2604.15311)."""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from tests.integration.harness import merged, tiny
from tests.method_context import CPU, SEEDS, STEPS, VIDEO, backbone, batch, context, gradient
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks

import vader
from vader.diffusion.flow import flow_levels, join, lagrange_weights, scale_gradient, supports
from vader.diffusion.gradient import window
from vader.diffusion.samplers.ddim import DDIM
from vader.diffusion.samplers.flow_euler import FlowEuler
from vader.methods.flowbp import FlowBP
from vader.methods.leapalign import LeapAlign
from vader.methods.reward_gradient import RewardGradient
from vader.methods.surrogates import draw_bridge, draw_leaps, draw_sparse, draw_split_leaps, late_biased
from vader.protocols import SamplerContext

LAGRANGE = {"order": 3, "coupling": 0.1, "support_scale": 0.25, "floor": 0.2}


def where(made: Any, **more: Any) -> Any:
    return context(made, eta=0.0, **more)


def loss_of(method: Any, made: Any, seed: int) -> Any:
    given = batch(made)
    given.rng.seed(seed)
    (loss,) = method.losses([given], 0)
    return loss


class Reference:
    """The formulas of the papers, from one rollout without gradient."""

    def __init__(self, made: Any) -> None:
        self.made, self.given, ours = made, batch(made).conditioning, where(made)
        self.sigma = [*torch.linspace(1.0, 1e-3, STEPS, dtype=torch.float64).tolist(), 0.0]
        self.x, self.v = [ours.noise(SEEDS).draw()], []
        with torch.no_grad():
            for i in range(STEPS):
                self.v.append(self.net(i, self.x[i]))
                self.x.append(self.x[i] + self.dt(i) * self.v[i])

    def dt(self, i: int) -> float:
        return self.sigma[i + 1] - self.sigma[i]

    def net(self, i: int, x: Tensor) -> Tensor:
        t = where(self.made).sampler.timesteps[i].expand(len(x))
        yes, no = (self.made.predict(self.made.denoiser, x, t, b) for b in (self.given.positive, self.given.negative))
        return no + 1.5 * (yes - no)

    def loss(self, end: Tensor, weight: Tensor | float = 1.0) -> tuple[Tensor, Tensor]:
        """Minus twice the negative distance of brightness from 1, of join(end, x_N)."""
        clip = self.made.decode(end + (self.x[STEPS] - end).detach(), [0, 1])
        reward = -2.0 * (clip.mean((1, 2, 3, 4)) - 1.0).abs()
        return -(weight * reward).mean(), reward

    def sparse(self, active: Sequence[int], r: float) -> tuple[Tensor, float]:
        g = 1 + r * (1.0 / sum(abs(self.dt(i)) for i in active) * sum(map(abs, map(self.dt, range(STEPS)))) - 1)
        end = self.x[0]
        for i in range(STEPS):
            u = self.v[i]
            if i in active:
                new = self.net(i, self.x[i])
                u = new.detach() + g * (new - new.detach())
            end = end + self.dt(i) * u
        return end, 1.0

    def bridge(self, j: int, active: Sequence[int], a: float) -> tuple[Tensor, float]:
        middle = self.x[0]
        for i in range(j):
            middle = middle + self.dt(i) * (self.net(i, self.x[i]) if i in active else self.v[i])
        c = middle + (self.x[j] - middle).detach()
        end = c
        for i in range(j, STEPS):
            given = a * c + (1 - a) * c.detach() if i == j else self.x[i]
            end = end + self.dt(i) * (self.net(i, given) if i in active else self.v[i])
        return end, 1.0

    def leap(self, k: int, j: int, a: float, tau: float) -> tuple[Tensor, Tensor]:
        middle = self.x[k] + (self.sigma[j] - self.sigma[k]) * self.net(k, self.x[k])
        c = middle + (self.x[j] - middle).detach()
        end = c + (0 - self.sigma[j]) * self.net(j, a * c + (1 - a) * c.detach())
        return end, self.weight(middle, end, j, tau)

    def weight(self, middle: Tensor, end: Tensor, j: int, tau: float) -> Tensor:
        far = [(middle - self.x[j]).abs().mean((1, 2, 3, 4)), (end - self.x[STEPS]).abs().mean((1, 2, 3, 4))]
        return 1 / sum(one.clamp(min=tau) for one in far).detach()  # type: ignore[union-attr]

    def lagrange(self, k: int, j: int, a: float, tau: float) -> tuple[Tensor, Tensor]:
        middle = self.x[k] + self.integral(k, j, self.x[k])
        c = middle + (self.x[j] - middle).detach()
        end = c + self.integral(j, STEPS, a * c + (1 - a) * c.detach())
        return end, self.weight(middle, end, j, tau)

    def integral(self, start: int, stop: int, given: Tensor) -> Tensor:
        """The interpolant through up to three velocities, by a Vandermonde system."""
        count = stop - start
        chosen = list(range(start, stop)) if count <= 3 else [start, start + round((count - 1) / 2), stop - 1]
        points = torch.tensor([self.sigma[i] for i in chosen], dtype=torch.float64)
        powers = torch.arange(len(chosen), dtype=torch.float64)
        ends = [torch.tensor(self.sigma[i], dtype=torch.float64) ** (powers + 1) / (powers + 1) for i in (start, stop)]
        weights = torch.linalg.solve(points[None] ** powers[:, None], ends[1] - ends[0])
        found = [self.net(start, given)]
        if count > 1:
            new = self.net(chosen[1], self.x[chosen[1]])
            found.append(new.detach() + 0.25 * (new - new.detach()))
        found += [self.v[i] for i in chosen[2:]]
        return sum((w * one for w, one in zip(weights, found, strict=True)), torch.zeros(()))


def case(name: str, seed: int, reference: Reference) -> tuple[Any, tuple[Tensor, Any]]:
    """A method, and the formula's end and weight for the steps that it draws."""
    made, rng = reference.made, random.Random(seed)
    if name == "sparse":
        one = draw_sparse(STEPS, 2, 1.0, 0.5)(rng)
        return FlowBP(FlowBP.Options(variant="sparse", active=2), where(made)), reference.sparse(one.active, 0.5)
    if name == "bridge":
        two = draw_bridge(STEPS, 3, 4.0, 0.0, 0.5)(rng)
        method = FlowBP(FlowBP.Options(variant="bridge", active=3), where(made))
        return method, reference.bridge(two.after[0], [*two.before, *two.after], 0.5)
    if name == "lagrange":
        leaps = draw_split_leaps(STEPS, (2.5, 6.0, 2.0), 10, **LAGRANGE)(rng)
        return FlowBP(FlowBP.Options(), where(made)), reference.lagrange(leaps.k, leaps.j, 0.1, 0.2)
    leaps = draw_leaps(STEPS, order=1, coupling=0.3, support_scale=0.0, floor=0.1)(rng)
    return LeapAlign(LeapAlign.Options(), where(made)), reference.leap(leaps.k, leaps.j, 0.3, 0.1)


@pytest.mark.parametrize("name", ["sparse", "bridge", "lagrange", "leapalign"])
@pytest.mark.parametrize("seed", range(4))
def test_loss_and_gradient_equal_the_formula(name: str, seed: int) -> None:
    made = backbone("flow")
    reference = Reference(made)
    method, (end, weight) = case(name, seed, reference)
    wanted, reward = reference.loss(end, weight)
    found = loss_of(method, made, seed)
    torch.testing.assert_close(found.reward, reward.detach(), rtol=1e-7, atol=1e-9)
    assert float(found.value.detach()) == pytest.approx(float(wanted.detach()), rel=1e-7)
    expected = gradient(wanted, made)
    assert expected.norm() > 1e-5
    torch.testing.assert_close(gradient(found.value, made), expected, rtol=1e-7, atol=1e-12)


@pytest.mark.parametrize("name", ["sparse", "bridge", "lagrange", "leapalign"])
def test_recomputation_changes_nothing_and_reuse_is_the_mean_of_draws(name: str) -> None:
    made = backbone("flow")
    kind: Any = LeapAlign if name == "leapalign" else FlowBP
    options: dict[str, Any] = {} if name == "leapalign" else {"variant": name}
    options |= {"active": 2} if name in ("sparse", "bridge") else {}
    plain = loss_of(kind(kind.Options(reuse=2, **options), where(made)), made, 1)
    for recompute in (True, "auto"):
        again = loss_of(kind(kind.Options(reuse=2, **options), where(made, recompute=recompute)), made, 1)
        torch.testing.assert_close(gradient(again.value, made), gradient(plain.value, made), rtol=1e-9, atol=1e-14)
    given = batch(made)
    given.rng.seed(1)
    single = kind(kind.Options(**options), where(made))
    parts = [next(iter(single.losses([given], 0))) for _ in range(2)]
    assert float(plain.value.detach()) == pytest.approx(sum(float(one.value.detach()) for one in parts) / 2, rel=1e-9)
    mean = sum(gradient(one.value, made) for one in parts) / 2
    torch.testing.assert_close(gradient(plain.value, made), mean, rtol=1e-8, atol=1e-12)


def test_sparse_with_every_step_and_no_rescaling_is_drtune_on_every_step() -> None:
    made = backbone("flow")
    sparse = loss_of(FlowBP(FlowBP.Options(variant="sparse", rescale=0.0), where(made)), made, 0)
    every = where(made, draw=window("tail", STEPS, k=STEPS, detach_input=True))
    drtune = loss_of(RewardGradient(RewardGradient.Options(), every), made, 0)
    assert float(sparse.value.detach()) == pytest.approx(float(drtune.value.detach()), rel=1e-12)
    torch.testing.assert_close(gradient(sparse.value, made), gradient(drtune.value, made), rtol=1e-9, atol=1e-14)


def test_the_value_is_that_of_the_clips_whatever_the_surrogate() -> None:
    """No residual is scored: rewards equal those of a plain rollout bit for bit."""
    made = backbone("flow")
    plain = loss_of(RewardGradient(RewardGradient.Options(), where(made)), made, 0)
    for name in ("sparse", "bridge", "lagrange"):
        found = loss_of(FlowBP(FlowBP.Options(variant=name), where(made)), made, 3)
        assert torch.equal(found.reward, plain.reward)


class TestLagrange:
    @pytest.mark.parametrize("count", [1, 2, 3, 5])
    def test_weights_integrate_polynomials_below_their_order_exactly(self, count: int) -> None:
        points = [0.9, 0.71, 0.42, 0.3, 0.11][:count]
        weights = lagrange_weights(points, 0.9, 0.05)
        for power in range(count):
            found = sum(weight * point**power for weight, point in zip(weights, points, strict=True))
            exact = (0.05 ** (power + 1) - 0.9 ** (power + 1)) / (power + 1)
            assert found == pytest.approx(exact, rel=1e-12, abs=1e-13)

    def test_supports_begin_at_the_start_and_are_even(self) -> None:
        assert supports(2, 9, 3) == [2, 5, 8]
        assert supports(2, 4, 3) == [2, 3]
        assert supports(2, 9, 1) == [2]

    def test_a_leap_ends_where_a_polynomial_velocity_ends(self) -> None:
        """A velocity of degree 2 in sigma, known at three steps, is integrated without error."""

        def primitive(s: float) -> float:
            return 0.3 * s - s**2 + 2 * s**3 / 3

        levels = [1.0, 0.83, 0.6, 0.45, 0.2, 0.0]
        chosen = supports(0, 5, 3)
        weights = lagrange_weights([levels[i] for i in chosen], levels[0], levels[5])
        moved = sum(w * (0.3 - 2 * levels[i] + 2 * levels[i] ** 2) for w, i in zip(weights, chosen, strict=True))
        assert moved == pytest.approx(primitive(0.0) - primitive(1.0), rel=1e-12)


def test_levels_are_the_sampler_s_and_other_samplers_have_none() -> None:
    made = backbone("flow")
    sampler = FlowEuler(FlowEuler.Options(shift=3.0), SamplerContext(made.schedule, 6, 0.0, VIDEO, CPU))
    found = flow_levels(sampler)
    assert found == pytest.approx([*(sampler.timesteps.double() / 1000).tolist(), 0.0], rel=1e-6)
    noisy = FlowEuler(FlowEuler.Options(), SamplerContext(made.schedule, 6, 1.0, VIDEO, CPU))
    ddim = DDIM(DDIM.Options(), SamplerContext(backbone().schedule, 6, 0.0, VIDEO, CPU))
    for other in (noisy, ddim):
        with pytest.raises(ValueError, match=r"step 0 of .* is no Euler step"):
            flow_levels(other)
    with pytest.raises(vader.SpecError, match=r"sampler\.name: step 0 of DDIM is no Euler step of a flow\. Use flow"):
        FlowBP(FlowBP.Options(), context(backbone(), eta=0.0))


def test_join_has_one_s_value_and_the_other_s_gradient() -> None:
    predicted = torch.tensor([0.1, 1e9], requires_grad=True)
    true = torch.tensor([0.3, 0.7], requires_grad=True)
    joined = join(3 * predicted, true)
    assert torch.equal(joined, true)
    joined.sum().backward()
    assert predicted.grad is not None
    assert predicted.grad.tolist() == [3.0, 3.0]
    assert true.grad is None
    scaled = scale_gradient(predicted, 0.25)
    assert torch.equal(scaled, predicted)
    assert torch.autograd.grad(scaled.sum(), predicted)[0].tolist() == [0.25, 0.25]


class TestDraws:
    def test_later_steps_are_likelier_by_their_weight(self) -> None:
        rng = random.Random(0)
        counts = Counter(late_biased(range(4), 1, 2.0, rng)[0] for _ in range(6000))
        for step in range(4):
            assert counts[step] / 6000 == pytest.approx((step + 1) ** 2 / 30, abs=0.025)
        assert all(len(set(late_biased(range(6), 4, 1.0, rng))) == 4 for _ in range(50))
        assert late_biased(range(3), 3, 1.0, rng) == [0, 1, 2]

    @pytest.mark.parametrize(("steps", "active"), [(2, 2), (5, 5), (20, 5)])
    def test_a_bridge_has_steps_on_both_sides_and_its_joint(self, steps: int, active: int) -> None:
        rng = random.Random(0)
        for _ in range(200):
            one = draw_bridge(steps, active, 4.0, 0.0, 0.5)(rng)
            assert len(one.before) >= 1
            assert one.after == sorted(set(one.after))
            assert max(one.before) < one.after[0] < steps
            assert one.calls == active

    def test_split_leaps_are_dirichlet_and_end_late(self) -> None:
        rng = random.Random(0)
        drawn = [draw_split_leaps(50, (2.5, 6.0, 2.0), 10, **LAGRANGE)(rng) for _ in range(2000)]
        assert all(0 <= one.k < one.j < 50 and 50 - one.j <= 10 for one in drawn)
        gap = sum(one.j - one.k for one in drawn) / len(drawn)
        assert gap == pytest.approx(50 * 6 / 10.5, abs=0.8)  # the mean share of the middle part
        assert all(0 <= one.k < one.j < 2 for one in [draw_split_leaps(2, (2.5, 6, 2), 10, **LAGRANGE)(rng)])


class TestCost:
    """One rollout, one query of the reward, and as many calls with gradient as are said; memory of one."""

    def measured(self, method: Callable[[Any], Any], steps: int) -> tuple[int, int, int, int]:
        """Reward queries, calls without and with gradient, and bytes that autograd holds until backward."""
        made = backbone("flow")
        calls, queries = Counter[bool](), [0]
        predict = made.predict

        def counting(*arguments: Any) -> Tensor:
            calls[torch.is_grad_enabled()] += 1
            return predict(*arguments)

        made.predict = counting  # type: ignore[method-assign]
        sampler = FlowEuler(FlowEuler.Options(), SamplerContext(made.schedule, steps, 0.0, VIDEO, CPU))
        chosen = where(made, sampler=sampler, recompute="auto")
        reward = chosen.rewards["reward"]
        score = reward.score

        def asked(frames: Tensor, prompts: Any) -> Tensor:
            queries[0] += len(frames)
            return score(frames, prompts)

        reward.score = asked
        held: dict[int, int] = {}

        def pack(tensor: Tensor) -> Tensor:
            held[tensor.untyped_storage()._cdata] = tensor.untyped_storage().nbytes()
            return tensor

        with saved_tensors_hooks(pack, lambda tensor: tensor):
            loss = loss_of(method(chosen), made, 2)
        del loss
        return queries[0], calls[False], calls[True], sum(held.values())

    def sparse(self, active: int) -> Callable[[Any], Any]:
        return lambda where: FlowBP(FlowBP.Options(variant="sparse", active=active), where)

    def leaps(self, where: Any) -> LeapAlign:
        return LeapAlign(LeapAlign.Options(), where)

    def test_queries_and_calls_are_counted(self) -> None:
        assert self.measured(self.sparse(3), 6)[:3] == (len(SEEDS), 6, 3)
        assert self.measured(self.leaps, 6)[:3] == (len(SEEDS), 6, 2)

    def test_memory_grows_neither_with_steps_nor_with_active_ones(self) -> None:
        """A recomputed call holds its input alone, one set of latents; a kept one over ten times that."""
        latents = len(SEEDS) * math.prod(backbone("flow").latent_shape(VIDEO)) * 8
        few, many = self.measured(self.sparse(1), 4)[3], self.measured(self.sparse(8), 16)[3]
        assert many - few <= 8 * 4 * latents
        assert many <= 1.5 * few
        assert self.measured(self.leaps, 16)[3] <= 1.05 * self.measured(self.leaps, 3)[3]


FLOW: dict[str, Any] = {
    "backbone": {"options": {"prediction": "flow"}, "adapter": {"dropout": 0.0}},
    "sampler": {"name": "flow_euler"},
    "gradient": {"mode": "last"},
}


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"sampler": {"name": "ddim"}}, "sampler.name: method flowbp needs Euler steps of a flow, which ddim has not"),
        ({"sampler": {"eta": 1.0}}, "sampler.eta: method flowbp needs steps without noise; expected 0, found 1"),
        ({"gradient": {"mode": "rand"}}, "gradient.mode: method flowbp has no gradient window"),
        ({"method": {"options": {"active": 2}}}, "active mean nothing to variant lagrange, which has order, coupling"),
        ({"method": {"options": {"split": [1, 0, 1]}}}, "split must be three numbers above 0"),
        (
            {"method": {"options": {"variant": "bridge", "active": 1}}},
            "method.options.active: 1 steps cannot be active",
        ),
        ({"method": {"options": {"variant": "sparse", "active": 9}}}, "Expected 1 to 3."),
        ({"sampler": {"steps": 1}}, "sampler.steps: variant lagrange needs 2 or more, found 1"),
        ({"method": "leapalign", "sampler": {"steps": 1}}, "sampler.steps: two leaps need 2 steps or more, found 1"),
    ],
)
def test_what_cannot_work_is_refused_before_weights_load(changes: dict[str, Any], said: str) -> None:
    made = merged(tiny("unused", **merged(FLOW, {"method": {"name": "flowbp"}})), changes)
    if "ddim" in said:
        made = merged(made, {"backbone": {"options": {"prediction": "epsilon"}}})
    with pytest.raises(vader.SpecError) as refused:
        vader.check(made)
    assert said in str(refused.value)


def test_how_denoiser_calls_are_recomputed_is_a_choice() -> None:
    made = merged(tiny("unused", **merged(FLOW, {"method": {"name": "flowbp"}})), {"gradient": {"recompute": False}})
    assert vader.check(made).gradient.recompute is False
