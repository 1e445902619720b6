"""``vader.estimation.estimate``: the memory of a training run, counted without its weights."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from vader.estimation.components import (
    Attempt,
    NotCounted,
    backbone_of,
    first_line,
    reward_of,
    without_network,
)
from vader.estimation.fake_device import HOST, STAGE, Machine
from vader.estimation.memory_tracker import Account, LiveBytes, storages
from vader.estimation.watched_step import watch_step
from vader.protocols import Backbone, LatentReward, Reward, Runtime, Video
from vader.resolve.components import ResolvedComponent
from vader.resolve.networks import networks
from vader.resolve.plan import Plan
from vader.resolve.validate import Spec, resolve
from vader.runs.device import DTYPES
from vader.spec import RunSpec


@dataclass(frozen=True)
class Estimate:
    """Bytes of a run on one device.

    Args:
        spec: what was estimated, each random choice at its most expensive.
        device: ``cuda`` or ``cpu``.
        training: what was seen in an optimizer step.
        validation: what was seen in a batch of validation; None without one.
        not_counted: what could not be built, by name, with the reason.
        host: bytes of the backbone's networks that live elsewhere, by name, such as an offloaded text encoder.
    """

    spec: RunSpec
    device: str
    training: Account
    validation: Account | None
    not_counted: Mapping[str, str]
    host: Mapping[str, int]

    @property
    def total(self) -> int:
        """The most live bytes at once."""
        return self.decisive.peak.total

    @property
    def decisive(self) -> Account:
        """Training or validation, whichever needs more."""
        if self.validation is None or self.training.peak.total >= self.validation.peak.total:
            return self.training
        return self.validation


def estimate(
    spec: Spec, overrides: Sequence[str] = (), device: str | None = None, *, trust_code: bool = False
) -> Estimate:
    """Count the memory of a training run. Nothing is fetched; no weight is read where a component has ``meta_init``.

    The trainer's own step runs, forward and backward, on tensors that have shapes but no bytes.

    Args:
        spec: a :class:`vader.RunSpec`, a mapping, or the path of a YAML file.
        overrides: dotted ``path=value`` strings, applied first.
        trust_code: run code that a spec in a file names outside its folder.
        device: ``cuda`` or ``cpu``; None for the spec's own, a GPU when that is ``auto``.

    Raises:
        SpecError: the spec is wrong.
        WeightsError: the backbone cannot be built without its weights.
    """
    judged = resolve(spec, overrides, trust_code=trust_code)
    plan = resolve(judged.spec, dearest(judged))
    wanted = device or ("cuda" if plan.spec.train.device == "auto" else plan.spec.train.device)
    machine = Machine(torch.device(wanted))
    runtime = Runtime(machine.device, DTYPES[plan.spec.train.mixed_precision])
    missing: dict[str, str] = {}
    if plan.spec.rollout.cache is not None:  # what it leaves out depends on numbers, and there are none
        missing["rollout.cache"] = "what it keeps from step to step; calls are counted as without it"
    with warnings.catch_warnings(), without_network():
        warnings.simplefilter("ignore")  # libraries warn of devices that are only pretended
        backbone, parameters = backbone_of(plan, machine, runtime)
        isolated = {reward.key for reward in (*plan.spec.rewards, *plan.spec.validation.rewards) if reward.isolate}
        rewards = _rewards(plan.rewards, isolated, machine, runtime, plan.video, backbone, missing)
        others = {key: part for key, part in plan.held_out.items() if key not in rewards}
        held_out = _rewards(others, isolated, machine, runtime, plan.video, backbone, missing)
        live, host = LiveBytes(), _on_host(backbone)
        cuda = machine.device.type == "cuda"
        training, validation = watch_step(
            plan,
            backbone,
            parameters,
            rewards,
            held_out,
            live,
            machine.running,
            host=HOST if cuda else None,
        )
    return Estimate(plan.spec, machine.device.type, training, validation, missing, host)


def dearest(plan: Plan) -> list[str]:
    """Overrides that make every random choice of a spec the most expensive one."""
    found: list[str] = []
    if plan.spec.gradient.mode == "rand":
        found += ["gradient.mode=specific", "gradient.from_step=0"]
    if plan.spec.frames.mode == "random":
        found += ["frames.mode=index", f"frames.index={plan.video.frames - 1}"]
    return found


def _on_host(backbone: Backbone) -> dict[str, int]:
    """Bytes of the networks that are not on the device."""
    found = {
        name.replace("_", " "): sum(tensor.nbytes for tensor in storages(module) if tensor.device != STAGE)
        for name, module in networks(backbone).items()
    }
    return {name: size for name, size in found.items() if size}


def _rewards(
    parts: Mapping[str, ResolvedComponent],
    isolated: set[str],
    machine: Machine,
    runtime: Runtime,
    video: Video,
    backbone: Backbone,
    missing: dict[str, str],
) -> dict[str, Reward | LatentReward]:
    """Rewards without bytes; notes those that cannot be built."""
    made: dict[str, Reward | LatentReward] = {}
    for key, part in parts.items():
        if key in isolated:
            missing[f"reward {key}"] = "it runs in a process of its own (isolate)"
            made[key] = NotCounted()
            continue
        try:
            made[key] = Attempt(key, reward_of(part, machine, runtime, video, backbone), missing)
        except Exception as error:  # a component's constructor may fail in any way
            missing[f"reward {key}"] = first_line(error)
            made[key] = NotCounted(part.capability("input"))
    return made
