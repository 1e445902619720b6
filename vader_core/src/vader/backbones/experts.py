"""A denoiser of two experts, one for high noise and one for low, of which only the one in use need be on the device."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, cast

import torch
from torch import Tensor, nn

from vader.weights.meta_init import Place


class Shelf(nn.Module):
    """The frozen weights of an expert that is not in use, on the host.

    Args:
        expert: its weights are taken; empty tensors stay in their place.
        device: of the empty tensors.
    """

    def __init__(self, expert: nn.Module, device: torch.device) -> None:
        super().__init__()
        self._places: list[tuple[nn.Module, str]] = []
        for module in expert.modules():
            for name, parameter in module._parameters.items():
                if parameter is not None:
                    self.register_parameter(f"weight{len(self._places)}", parameter)
                    self._places.append((module, name))
        self._device = device
        self.put_back()

    def fetch(self) -> None:
        """Copy the weights to the device."""
        for weight, (module, name) in zip(self.parameters(), self._places, strict=True):
            module._parameters[name] = nn.Parameter(weight.to(self._device), requires_grad=False)

    @torch.no_grad()
    def store(self) -> None:
        """Take up what was changed in the copies."""
        for weight, (module, name) in zip(self.parameters(), self._places, strict=True):
            weight.copy_(cast(Tensor, module._parameters[name]))

    def put_back(self) -> None:
        """Let the copies go."""
        for weight, (module, name) in zip(self.parameters(), self._places, strict=True):
            empty = weight.new_empty(0, device="meta" if weight.is_meta else self._device)
            module._parameters[name] = nn.Parameter(empty, requires_grad=False)


class ExpertRouter(nn.Module):
    """Sends each clip to the expert for its timestep; called as an expert is.

    An expert that has no part in a call takes part in its gradient, with zeros: so every adapter has a gradient after
    every backward pass, in one process as in several.

    Args:
        high: for timesteps from the boundary up.
        low: for those below it.
        boundary: a timestep.
        shelves: the weights of both, if only those of the expert in use are to be on the device; else empty.
    """

    def __init__(self, high: nn.Module, low: nn.Module, boundary: float, shelves: Mapping[str, Shelf]) -> None:
        super().__init__()
        self.high, self.low, self.boundary = high, low, boundary
        self._shelves, self._fetched = dict(shelves), ""

    @property
    def dtype(self) -> torch.dtype:
        """Of the experts."""
        found: Any = self.high.dtype
        return cast(torch.dtype, found)

    @property
    def experts(self) -> dict[str, nn.Module]:
        """By name."""
        return {"high": self.high, "low": self.low}

    def forward(self, hidden_states: Tensor, timestep: Tensor, **given: Any) -> tuple[Tensor]:
        """``(b c f h w)``, ``(b,)`` and what else an expert takes -> its output, in a tuple."""
        high = (timestep >= self.boundary).tolist()
        if len(set(high)) == 1:
            return (self._call("high" if high[0] else "low", hidden_states, timestep, given),)
        parts, order = [], list[int]()
        for name, wanted in (("high", True), ("low", False)):
            rows = [row for row, is_high in enumerate(high) if is_high is wanted]
            mine = {key: value[rows] if isinstance(value, Tensor) else value for key, value in given.items()}
            parts.append(self._call(name, hidden_states[rows], timestep[rows], mine))
            order += rows
        back = sorted(range(len(order)), key=order.__getitem__)
        return (torch.cat(parts)[back],)

    def _call(self, name: str, hidden_states: Tensor, timestep: Tensor, given: Mapping[str, Any]) -> Tensor:
        self.use(name)
        idle = self.experts["low" if name == "high" else "high"]
        unused = [parameter.sum() for parameter in idle.parameters() if parameter.requires_grad]
        if unused and torch.is_grad_enabled():  # at the input: backward comes there last, after what is recomputed
            hidden_states = hidden_states + 0 * torch.stack(unused).sum().to(hidden_states.dtype)
        output: Tensor = self.experts[name](hidden_states, timestep, **given)[0]
        if output.requires_grad:
            output.register_hook(lambda _: self.use(name))  # type: ignore[no-untyped-call]
        return output

    def keep(self) -> None:
        """Keep what was changed in the weights of the expert in use."""
        if self._fetched:
            self._shelves[self._fetched].store()

    def use(self, name: str) -> None:
        """Have an expert's weights on the device: before it is called, and before backward goes through it."""
        if not self._shelves or name == self._fetched:
            return
        if self._fetched:
            self._shelves[self._fetched].put_back()
        self._shelves[name].fetch()
        self._fetched = name


@contextmanager
def edited(denoiser: nn.Module, expert: str | None) -> Iterator[nn.Module]:
    """A denoiser, or one of its experts, whose weights may be changed while the context lasts."""
    if expert is None:
        yield denoiser
        return
    assert isinstance(denoiser, ExpertRouter)
    denoiser.use(expert)
    yield denoiser.experts[expert]
    denoiser.keep()


def route(
    experts: Mapping[str, nn.Module], boundary: float, device: torch.device, place: Place, *, offload: bool
) -> tuple[ExpertRouter, dict[str, Shelf]]:
    """A router over experts, and the shelves of their weights.

    Args:
        experts: ``high`` and ``low``, on the host.
        boundary: a timestep.
        device: of the run.
        place: puts a module on a device.
        offload: only the expert in use has its weights on the device.
    """
    shelves: dict[str, Shelf] = {}
    if offload:
        shelves = {name: place(Shelf(expert, device), "cpu") for name, expert in experts.items()}
    placed = {name: place(expert, device) for name, expert in experts.items()}
    return ExpertRouter(placed["high"], placed["low"], boundary, shelves).eval(), shelves
