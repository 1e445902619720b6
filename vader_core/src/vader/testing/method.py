"""Checks of methods: what a run relies on, whatever a method computes."""

from __future__ import annotations

import io
import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from vader.protocols import Loss
from vader.testing.checks import Failed, NotApplicable, check, expect
from vader.testing.method_trial import MICRO_STEPS, Number, Trial, suited, trial
from vader.testing.subject import Subject


def _walked(made: Trial, step: int = 0) -> list[Loss]:
    """The losses of an optimizer step."""
    return list(made.losses(step))


@check("method")
def what_it_says_of_a_spec_is_readable(subject: Subject) -> None:
    """What it says of a spec are dotted paths with messages, and it has nothing against some setting of the kit."""
    for found in suited(subject)[1]:
        fine = isinstance(found, tuple) and len(found) == 2 and all(isinstance(part, str) and part for part in found)
        expect(fine, f"validate gave {found!r}; expected (path, message), such as ('sampler.eta', 'expected 0.').")


@check("method")
def counts_are_whole_numbers(subject: Subject) -> None:
    """group_size, inner_epochs and passes are whole numbers, 1 or more."""
    method = trial(subject).method
    for name in ("group_size", "inner_epochs", "passes"):
        value = getattr(method, name)
        expect(type(value) is int and value >= 1, f"{name} is {value!r}; expected a whole number, 1 or more.")


@check("method", needs=("counts_are_whole_numbers",))
def losses_are_as_many_as_said(subject: Subject) -> None:
    """It gives as many losses as passes says, for each batch, at every optimizer step on the same clips."""
    made = trial(subject)
    for step in range(made.method.inner_epochs):
        found, said = len(_walked(made, step)), MICRO_STEPS * made.method.passes
        expect(found == said, f"{MICRO_STEPS} batches give {found} losses; expected {said} (passes for each).")


@check("method", needs=("losses_are_as_many_as_said",))
def losses_are_scalars(subject: Subject) -> None:
    """A loss is a finite scalar tensor that carries gradient."""
    made = trial(subject)
    for loss in made.losses(0):
        value: Any = loss.value
        expect(isinstance(value, Tensor) and value.ndim == 0, f"a loss is {value!r}; expected a scalar tensor.")
        expect(value.requires_grad, "a loss carries no gradient. Compute it with gradients on, without detach.")
        expect(math.isfinite(float(value.detach())), f"a loss is {float(value.detach())} on clips of the kit.")


@check("method", needs=("losses_are_scalars",))
def the_adapter_gets_gradient(subject: Subject) -> None:
    """The gradient reaches the adapter, finite, where clips differ in their rewards."""
    made = trial(subject)
    size = 0.0
    for step in range(2 * made.method.inner_epochs):
        _walked(made, step)
        size += float(torch.stack(made.gradients).norm())
    expect(math.isfinite(size) and size > 0, f"the adapter's gradients have size {size:g}; expected above 0.")


@check("method", needs=("losses_are_scalars",))
def scores_and_metrics_have_no_graph(subject: Subject) -> None:
    """Scores of every reward and the reward are one number a clip, metrics one number, all without a graph."""
    made = trial(subject)
    for loss in made.losses(0):
        keys = set(made.context.rewards)
        expect(keys <= set(loss.scores), f"scores are of {', '.join(loss.scores) or 'nothing'}; expected {keys}.")
        for name, found in {**loss.scores, "reward": loss.reward}.items():
            fine = isinstance(found, Tensor) and tuple(found.shape) == (made.size,)
            expect(fine, f"{name} is {found!r}; expected a tensor of shape ({made.size},), one number a clip.")
            expect(not found.requires_grad, f"{name} holds a graph until it is logged. Detach it.")
        for name, value in loss.metrics.items():
            number = isinstance(value, float) or (isinstance(value, Tensor) and value.ndim == 0)
            expect(number, f"metric {name} is {value!r}; expected a float or a scalar tensor.")
            expect(not getattr(value, "requires_grad", False), f"metric {name} holds a graph. Detach it.")


@check("method", needs=("losses_are_scalars",))
def losses_come_one_at_a_time(subject: Subject) -> None:
    """A loss is computed when it is asked for, after the one before has been back-propagated: so memory is that of
    one."""
    made = trial(subject)
    losses = made.losses(0)
    next(losses)
    first = made.denoiser.calls[True]
    for _ in losses:
        pass
    every = made.denoiser.calls[True]
    expect(
        first < every,
        f"all {every} denoiser calls with gradient come before the first loss. Yield each loss before the next one.",
    )


@check("method", needs=("losses_are_scalars",))
def the_given_denoiser_is_called(subject: Subject) -> None:
    """It calls the context's denoiser, not the backbone's own: with several processes gradients are shared there."""
    made = trial(subject)
    _walked(made)
    through, all_calls = made.denoiser.through, sum(made.denoiser.calls.values())
    expect(through == all_calls, f"{all_calls - through} of {all_calls} calls go past context.denoiser.")


@check("method", needs=("losses_are_scalars",))
def parameters_are_left_alone(subject: Subject) -> None:
    """It leaves parameters and their gradients as they are: the optimizer is the run's."""
    made = trial(subject)
    before = [parameter.detach().clone() for parameter in made.parameters]
    for step in range(made.method.inner_epochs):
        _walked(made, step)
    same = all(torch.equal(one, other) for one, other in zip(before, made.parameters, strict=True))
    expect(same, "the adapter has other values after the losses were asked for.")
    expect(
        all(parameter.grad is None for parameter in made.parameters), "it has called backward. Leave that to the run."
    )


@check("method", needs=("losses_are_scalars",))
def global_random_state_is_left_alone(subject: Subject) -> None:
    """It draws nothing from the global random generators: its chance is the batch's rng and the clips' seeds."""
    from vader.testing.reward import unmoved

    made = trial(subject)
    unmoved(lambda: _walked(made))


@check("method", needs=("losses_are_scalars",))
def draws_are_seeded(subject: Subject) -> None:
    """The same batches give the same losses and gradients, in any instance."""
    one, other = trial(subject), trial(subject)
    for step in range(one.method.inner_epochs):
        first, second = ([float(loss.value.detach()) for loss in made.losses(step)] for made in (one, other))
        same = first == second and all(torch.equal(*pair) for pair in zip(one.gradients, other.gradients, strict=True))
        expect(same, f"two instances give the losses {first[:3]} and {second[:3]}. Draw by batch.rng and batch.seeds.")


@check("method", needs=("losses_are_scalars",))
def clips_serve_every_update(subject: Subject) -> None:
    """Optimizer steps on the same clips have the rewards of the same clips."""
    made = trial(subject)
    if made.method.inner_epochs == 1:
        raise NotApplicable("its inner_epochs is 1: every optimizer step makes clips of its own.")
    rewards = []
    for step in range(made.method.inner_epochs):
        rewards.append(torch.cat([loss.reward for loss in made.losses(step)]))
        made.move()
    same = all(torch.equal(rewards[0], other) for other in rewards[1:])
    expect(same, f"inner_epochs is {made.method.inner_epochs}, and later optimizer steps have other rewards.")


@check("method", needs=("losses_are_scalars",))
def rewards_without_a_gradient_suffice(subject: Subject) -> None:
    """If it says that it needs no gradient of rewards, one without does."""
    if subject.capability("needs_gradient"):
        raise NotApplicable("it says needs_gradient = True.")
    for loss in trial(subject, reward=Number()).losses(0):
        expect(
            loss.value.requires_grad, "a reward without a gradient gives a loss without one. Say needs_gradient = True."
        )


def _stored(made: Trial) -> Any:
    """The method's state as a checkpoint brings it back."""
    file = io.BytesIO()
    torch.save(made.method.state_dict(), file)
    file.seek(0)
    return torch.load(file, weights_only=True)


@check("method", needs=("losses_are_scalars",))
def state_is_plain(subject: Subject) -> None:
    """Its state holds tensors, numbers, texts, lists and dicts alone, which a checkpoint can be trusted with."""
    made = trial(subject)
    _walked(made)
    try:
        _stored(made)
    except Exception as error:
        raise Failed(f"its state cannot be read back safely: {str(error).splitlines()[0]}") from error


@check("method", needs=("state_is_plain", "draws_are_seeded"))
def state_is_whole(subject: Subject) -> None:
    """Another instance with its state goes on exactly, from every optimizer step, in the middle of a round too."""
    steps = 2 * trial(subject).method.inner_epochs
    whole = [(values, slopes) for values, slopes, _ in _course(subject, range(steps))]
    for start, (_, _, state) in enumerate(_course(subject, range(steps - 1)), 1):
        values, slopes, _ = next(_course(subject, range(start, steps), state))
        same = values == whole[start][0] and torch.equal(slopes, whole[start][1])
        expect(
            same, f"resumed after optimizer step {start}, the next losses are {values[:3]}, not {whole[start][0][:3]}."
        )


def _course(subject: Subject, steps: range, state: Any = None) -> Iterator[tuple[list[float], Tensor, Any]]:
    """Losses, gradients and the state after each optimizer step; begun anew, or from a state."""
    made = trial(subject)
    for _ in range(steps.start):
        made.move()
    if state is not None:
        made.method.load_state_dict(state)
    for step in steps:
        values = [float(loss.value.detach()) for loss in made.losses(step)]
        made.move()
        yield values, torch.stack(made.gradients), _stored(made)
