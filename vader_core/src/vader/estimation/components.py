"""Components without weights: by ``meta_init`` where they have it, else constructed and stripped of their bytes."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, cast

import torch
from torch import nn

from vader.errors import VaderError, WeightsError
from vader.estimation.fake_device import STAGE, Machine
from vader.protocols import Backbone, LatentReward, MetaBuildable, Reward, Runtime, Video, capability
from vader.resolve import build
from vader.resolve.components import ResolvedComponent
from vader.resolve.networks import networks
from vader.resolve.plan import Plan
from vader.shapes import Frames, Latents, Scores
from vader.weights import lora


class NotCounted:
    """Stands for a reward that cannot be built here: it keeps the gradient's way open and counts nothing."""

    def __init__(self, sees: str = "frames") -> None:
        self.input = sees

    def score(self, clips: Frames | Latents, *others: Any) -> Scores:
        """``(b ...)``, frames or latents -> ``(b,)``."""
        return clips.flatten(1).mean(1)


class Attempt:
    """A reward whose score may need numbers that are not there; then its activations are not counted, and it says so.

    Args:
        key: what it is called.
        reward: without bytes.
        missing: where it is said.
    """

    def __init__(self, key: str, reward: Reward | LatentReward, missing: dict[str, str]) -> None:
        self._key, self.reward, self._missing = key, reward, missing
        self.input = capability(reward, "input")

    def score(self, clips: Frames | Latents, *others: Any) -> Scores | Mapping[str, Scores]:
        """See :class:`vader.protocols.Reward` and :class:`vader.protocols.LatentReward`."""
        try:
            given: Scores | Mapping[str, Scores] = self.reward.score(clips, *others)
            return given
        except Exception as error:  # a component may fail in any way on tensors without bytes
            self._missing[f"activations of reward {self._key}"] = f"{type(error).__name__}: {first_line(error)}"
            return NotCounted().score(clips)


@contextmanager
def without_network() -> Iterator[None]:
    """The hub's client answers from its cache alone: an estimate never fetches weights."""
    from huggingface_hub import constants

    before, constants.HF_HUB_OFFLINE = constants.HF_HUB_OFFLINE, True
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before


Homes = dict[nn.Module, torch.device]
"""Where networks live."""


def meta_init(part: ResolvedComponent, runtime: Runtime, **offered: Any) -> tuple[Any, Homes]:
    """A component without weights, and where its networks live.

    Args:
        part: chosen by a spec.
        runtime: the wanted device, and the dtype of frozen weights; one object for all components of an estimate.
        offered: further things its constructor may take.

    Returns:
        The component. Where its class has ``meta_init``, networks are on the meta device and every one is in the
        mapping; where it has not, they are real, on the CPU, and the mapping is empty.

    Raises:
        Exception: whatever the component raises.
    """
    homes: Homes = {}

    def place(module: nn.Module, home: torch.device | str) -> nn.Module:
        homes[module] = torch.device(home)
        return module

    able = part.ability(MetaBuildable)
    if able is None:
        return part.build(runtime=Runtime(STAGE, runtime.dtype), **offered), homes
    taken = inspect.signature(able.meta_init).parameters
    known = {"runtime": runtime, "place": place, **offered}
    return able.meta_init(part.options, **{name: value for name, value in known.items() if name in taken}), homes


def backbone_of(plan: Plan, machine: Machine, runtime: Runtime) -> tuple[Backbone, list[nn.Parameter]]:
    """The backbone with its adapter, without bytes, and the parameters that train.

    Raises:
        WeightsError: it cannot be built without its weights.
    """
    part = plan.backbone
    try:
        found, homes = meta_init(part, runtime, video=plan.video)
    except VaderError as error:
        raise WeightsError(f"the backbone {part.name!r} cannot be estimated: {error}") from error
    backbone = cast("Backbone", found)
    spec, targets = plan.spec.backbone.adapter, part.capability("lora_target_modules")
    with torch.device("meta" if homes else STAGE):
        bare = spec.model_copy(update={"init": None})
        lora.inject(backbone.denoiser, bare, targets, seed=0, without=build.without_adapter(backbone))
    dress(machine, backbone, homes)
    if plan.spec.train.gradient_checkpointing:
        backbone.enable_gradient_checkpointing()
    return backbone, [parameter for parameter in backbone.denoiser.parameters() if parameter.requires_grad]


def reward_of(
    part: ResolvedComponent, machine: Machine, runtime: Runtime, video: Video, backbone: Backbone
) -> Reward | LatentReward:
    """A reward without bytes, for these clips and, where it scores latents, of this backbone.

    Raises:
        Exception: whatever its constructor raises.
    """
    reward, homes = meta_init(part, runtime, video=video, backbone=backbone)
    if isinstance(reward, nn.Module):
        reward.requires_grad_(False).eval()
    dress(machine, reward, homes)
    return reward if hasattr(reward, "score") else build.FunctionReward(reward)


def dress(machine: Machine, component: Any, homes: Homes) -> None:
    """Make all networks of a component fake; those that were placed nowhere live on the wanted device.

    Afterwards no home is known, so that a network is gone when its component lets it go.
    """
    for module, home in homes.items():
        machine.dress(module, home)
    homes.clear()
    for module in networks(component).values():
        machine.dress(module, machine.device)


def first_line(error: BaseException) -> str:
    """An error in one line."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]
