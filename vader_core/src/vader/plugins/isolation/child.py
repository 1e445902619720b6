"""The other process: run as a script by another Python, which need not have vader.

Arguments: the folder of the ``vader`` package; file descriptors of the channel, of a pipe that closes when the run is
gone, and of the shared memory. Only the standard library is imported here at top level.
"""

from __future__ import annotations

import importlib.util
import inspect
import mmap
import os
import signal
import socket
import sys
import threading
import traceback
from pathlib import Path
from typing import Any


class _Finder:
    """Finds ``vader`` in the folder of the run's own, whatever else is installed here."""

    def __init__(self, folder: str) -> None:
        self._folder = folder

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        """The package ``vader``; its modules are then found beside it."""
        if name != "vader":
            return None
        init = os.path.join(self._folder, "__init__.py")  # noqa: PTH118
        return importlib.util.spec_from_file_location(name, init, submodule_search_locations=[self._folder])


def _watch(life: int) -> None:
    """End this process and its children when the run is gone."""
    os.read(life, 1)
    os.killpg(os.getpgrp(), signal.SIGKILL)


class Server:
    """Answers requests about one reward."""

    def __init__(self, memory: int) -> None:
        self._memory = memory
        self._map: Any = None
        self._reward: Any = None
        self._cut_off: Any = None
        self._graphs: dict[int, Any] = {}

    def describe(self, name: str, options: dict[str, Any]) -> dict[str, Any]:
        """Capabilities of the reward called ``name``, and what is wrong with its options. Loads no weights."""
        from vader.protocols import capabilities_of, capability

        component = self._load(name)
        model = getattr(component, "Options", None)
        problems: list[Any] = []
        if model is None:
            problems = [[[key], "unknown field; this reward takes none. Remove it."] for key in options]
        else:
            from pydantic import ValidationError

            try:
                model.model_validate(options)
            except ValidationError as error:
                problems = [[list(item["loc"]), f"{item['msg']}; found {item['input']!r}."] for item in error.errors()]
        found = {key: capability(component, key) for key in capabilities_of("reward")}
        return {"capabilities": found, "problems": problems}

    def build(
        self, name: str, options: dict[str, Any], device: str, dtype: str, video: dict[str, Any] | None = None
    ) -> dict[str, Any]:
        """Construct the reward, frozen."""
        import torch

        from vader.protocols import Runtime, Video

        component = self._load(name)
        reward = component
        if isinstance(component, type):
            named = inspect.signature(component).parameters
            runtime = Runtime(torch.device(device), getattr(torch, dtype))
            offered = {"runtime": runtime, "video": Video(**video) if video else None}
            given = {name: value for name, value in offered.items() if name in named}
            model = getattr(component, "Options", None)
            reward = component(**given) if model is None else component(model.model_validate(options), **given)
        if isinstance(reward, torch.nn.Module):
            reward.to(device).requires_grad_(False).eval()
        self._device = device
        self._cut_off = getattr(reward, "cut_off", None)
        self._reward = reward.score if hasattr(reward, "score") else reward
        return {}

    def cut_off(self, text: str) -> dict[str, Any]:
        """The end of a text that the reward does not read."""
        return {"end": self._cut_off(text) if self._cut_off is not None else ""}

    def _load(self, name: str) -> Any:
        from vader.plugins import registry

        component = registry.load("reward", name)
        verdict = registry.misfit("reward", component)
        if verdict is not None:
            raise ValueError(str(verdict))
        return component

    def score(self, id: int, shape: list[int], dtype: str, size: int, prompts: list[Any], grad: bool) -> dict[str, Any]:
        """Score the frames in the shared memory; keep the graph under ``id`` when a gradient may be asked for."""
        import torch

        from vader.protocols import Prompt, score_and_parts

        if self._map is None or len(self._map) != size:
            self._map = mmap.mmap(self._memory, size)
        count = 1
        for length in shape:
            count *= length
        kind = getattr(torch, dtype)
        frames = torch.frombuffer(self._map, dtype=kind, count=count).reshape(shape).clone().to(self._device)
        frames.requires_grad_(grad)
        with torch.set_grad_enabled(grad):
            clips = [Prompt(text, metadata, Path(image) if image else None) for text, metadata, image in prompts]
            scores, parts = score_and_parts(self._reward(frames, clips), shape[0])
        carries = bool(grad and scores.requires_grad)
        if carries:
            self._graphs[id] = (frames, scores)
        values = scores.detach().double().cpu().tolist()
        named = {name: part.double().cpu().tolist() for name, part in parts.items()}
        return {"scores": values, "parts": named, "dtype": str(scores.dtype).partition(".")[2], "gradient": carries}

    def backward(self, id: int, gradient: list[float]) -> dict[str, Any]:
        """Write the gradient with respect to the frames of ``id`` into the shared memory; False when it is zero."""
        import torch

        frames, scores = self._graphs[id]
        output = torch.tensor(gradient, dtype=torch.float64).to(scores)
        (found,) = torch.autograd.grad(scores, frames, output, retain_graph=True, allow_unused=True)
        if found is None:
            return {"gradient": False}
        flat = found.detach().cpu().contiguous().reshape(-1)
        torch.frombuffer(self._map, dtype=flat.dtype, count=flat.numel()).copy_(flat)
        return {"gradient": True}

    def answer(self, message: dict[str, Any]) -> dict[str, Any]:
        """Do what a message asks for; whatever it raises becomes part of the answer."""
        for id in message.pop("drop", ()):
            self._graphs.pop(id, None)
        try:
            return {"answer": getattr(self, message.pop("op"))(**message)}
        except KeyboardInterrupt:
            raise
        except BaseException as error:
            said = f"{type(error).__name__}: {error}"
            return {"error": said, "kind": type(error).__name__, "text": str(error), "trace": traceback.format_exc()}


def main() -> None:
    """Serve until the run is gone."""
    own = os.path.dirname(os.path.abspath(__file__))  # noqa: PTH100, PTH120 (pathlib is imported when that is gone)
    sys.path[:] = [path for path in sys.path if path not in ("", own)]  # nor the folder where the user stands
    if sys.version_info < (3, 10):  # noqa: UP036 (this is another Python than the one that the package asks for)
        sys.exit("an isolated reward needs Python 3.10 or newer, this is " + sys.version.split()[0])
    folder, channel_fd, life, memory = sys.argv[1], *map(int, sys.argv[2:5])
    sys.argv[1:] = []
    sys.meta_path.insert(0, _Finder(folder))
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the run hears Ctrl-C, saves, and ends this process
    threading.Thread(target=_watch, args=(life,), daemon=True).start()
    from vader.plugins.isolation.channel import Channel, Closed

    channel, server = Channel(socket.socket(fileno=channel_fd)), Server(memory)
    try:
        while True:
            channel.send(server.answer(channel.receive()))
    except Closed:
        os.killpg(os.getpgrp(), signal.SIGKILL)


if __name__ == "__main__":
    main()
