"""An isolated reward as the run sees it: an ordinary reward, differentiable if it is so in its own process."""

from __future__ import annotations

import itertools
import json
import threading
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from vader.errors import IsolationError
from vader.plugins.isolation.process import Process
from vader.protocols import SCORE, Prompt, Runtime, Video

if TYPE_CHECKING:
    from vader.shapes import Frames, Scores


class IsolatedReward:
    """A reward that lives in another process.

    Class attributes besides a reward's:
        launch: keyword arguments of the process and its reward, set by :func:`isolated`.

    Raises:
        IsolationError: the process ends, hangs or raises, at construction or at a call.
    """

    differentiable: ClassVar[bool] = True
    frames: ClassVar[int] = 1
    needs_prompt: ClassVar[bool] = False
    launch: ClassVar[Mapping[str, Any]] = {}

    def __init__(self, runtime: Runtime, video: Video | None = None) -> None:
        launch = self.launch
        self._timeout: float = launch["timeout"]
        self._label: str = launch["label"]
        self._process = Process(launch["python"], self._label)
        self._lock = threading.Lock()
        self._ids = itertools.count()
        self._dropped: list[int] = []
        dtype = str(runtime.dtype).removeprefix("torch.")
        self._process.ask(
            launch["startup_timeout"],
            op="build",
            name=launch["name"],
            options=launch["options"],
            device=str(runtime.device),
            dtype=dtype,
            video=asdict(video) if video else None,
        )

    def score(self, frames: Frames, prompts: Sequence[Prompt]) -> Scores | Mapping[str, Scores]:
        """See :class:`vader.protocols.Reward`."""
        parts: dict[str, Tensor] = {}
        if self.differentiable and torch.is_grad_enabled() and frames.requires_grad:
            scores: Tensor = _Score.apply(frames, self, prompts, parts)
        else:
            scores = self._ask(frames, prompts, parts, grad=False)[0]
        return {SCORE: scores, **parts} if parts else scores

    def cut_off(self, text: str) -> str:
        """See :class:`vader.protocols.CutsPrompts`."""
        with self._lock:
            end: str = self._process.ask(self._timeout, op="cut_off", text=text)["end"]
        return end

    def close(self) -> None:
        """End the process."""
        self._process.end()

    def _ask(
        self, frames: Tensor, prompts: Sequence[Prompt], parts: dict[str, Tensor], *, grad: bool
    ) -> tuple[Tensor, _Graph | None]:
        """Scores, and what the graph in the other process is known by when it carries a gradient; fills ``parts``."""
        flat = frames.detach().cpu().contiguous().reshape(-1)
        graph = _Graph(self, next(self._ids))
        with self._lock:
            memory = self._process.memory(max(flat.numel() * flat.element_size(), 1))
            torch.frombuffer(memory, dtype=flat.dtype, count=flat.numel()).copy_(flat)
            answer = self._process.ask(
                self._timeout,
                op="score",
                id=graph.id,
                shape=list(frames.shape),
                dtype=str(frames.dtype).removeprefix("torch."),
                size=len(memory),
                prompts=[[prompt.text, self._plain(prompt), self._image(prompt)] for prompt in prompts],
                grad=grad,
                drop=self._take_dropped(),
            )
        dtype = getattr(torch, answer["dtype"])

        def received(values: list[float]) -> Tensor:
            return torch.tensor(values, dtype=torch.float64).to(frames.device, dtype)

        parts.update((name, received(values)) for name, values in answer["parts"].items())
        return received(answer["scores"]), graph if answer["gradient"] else None

    @staticmethod
    def _image(prompt: Prompt) -> str | None:
        """Where the prompt's image is, whatever folder the other process works in."""
        return str(prompt.image.resolve()) if prompt.image is not None else None

    def _plain(self, prompt: Prompt) -> dict[str, Any]:
        data = dict(prompt.metadata)
        try:
            json.dumps(data)
        except (TypeError, ValueError) as error:
            raise IsolationError(
                f"isolated reward {self._label!r}: the metadata of prompt {prompt.text!r} cannot be sent: {error}. "
                "Expected JSON's types."
            ) from error
        return data

    def _take_dropped(self) -> list[int]:
        taken, self._dropped = self._dropped, []
        return taken

    def _pull(self, graph: _Graph, gradient: Tensor, like: Tensor) -> Tensor:
        """The gradient with respect to frames that were ``like``, for the gradient ``(b,)`` of their scores."""
        with self._lock:
            values = gradient.detach().double().cpu().tolist()
            answer = self._process.ask(
                self._timeout, op="backward", id=graph.id, gradient=values, drop=self._take_dropped()
            )
            if not answer["gradient"]:
                return torch.zeros(like.shape, dtype=like.dtype, device=like.device)
            memory = self._process.memory(1)
            flat = torch.frombuffer(memory, dtype=like.dtype, count=like.numel()).clone()
        return flat.reshape(like.shape).to(like.device)


class _Graph:
    """A graph kept in the other process for as long as this object lives."""

    def __init__(self, reward: IsolatedReward, id: int) -> None:
        self._reward, self.id = reward, id

    def __del__(self) -> None:
        self._reward._dropped.append(self.id)


class _Score(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, frames: Tensor, reward: IsolatedReward, prompts: Sequence[Prompt], parts: dict[str, Tensor]
    ) -> Tensor:
        scores, graph = reward._ask(frames, prompts, parts, grad=True)
        ctx.reward, ctx.graph = reward, graph
        ctx.like = torch.empty((), dtype=frames.dtype, device=frames.device).expand(frames.shape)
        if graph is None:
            ctx.mark_non_differentiable(scores)
        return scores

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, None, None, None]:
        if ctx.graph is None:
            return None, None, None, None
        return ctx.reward._pull(ctx.graph, gradient, ctx.like), None, None, None
