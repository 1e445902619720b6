"""What the integration tests share: a tiny run, runs compared, damage, rewards and listeners that misbehave."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from safetensors.torch import load_file
from torch import Tensor

import vader
from vader.cli import app as cli

if TYPE_CHECKING:
    import pytest

ROOT = Path(__file__).resolve().parents[2]
FAKES = str(ROOT / "tests" / "fakes.py")
HERE = str(Path(__file__).resolve())
BACKBONE, BRIGHTNESS, PROMPT_LENGTH, WORDING = (
    f"{FAKES}:{name}" for name in ("FakeBackbone", "Brightness", "PromptLength", "Wording")
)
ADAPTER_FILE = "adapter_model.safetensors"


def merged(base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """``base`` with ``changes`` laid over it, mapping by mapping."""
    out = dict(base)
    for key, value in changes.items():
        out[key] = (
            merged(out[key], value) if isinstance(value, Mapping) and isinstance(out.get(key), Mapping) else value
        )
    return out


def tiny(output: Path | str, **changes: Any) -> dict[str, Any]:
    """A run of a fraction of a second, in which everything is random that can be: window, frames, dropout, prompts."""
    spec = {
        "backbone": {"name": BACKBONE, "adapter": {"rank": 2, "dropout": 0.2}},
        "video": {"frames": 3, "height": 4, "width": 4},
        "sampler": {"steps": 3, "guidance_scale": 2.0},
        "prompts": {"name": "list", "options": {"prompts": ["a red circle", "a blue square", "a green triangle"]}},
        "rewards": [{"name": BRIGHTNESS, "label": "brightness"}],
        "gradient": {"mode": "rand"},
        "frames": {"mode": "random"},
        "train": {
            "steps": 6,
            "batch_size": 1,
            "gradient_accumulation": 2,
            "learning_rate": 0.01,
            "schedule": "cosine",
            "warmup_steps": 2,
            "device": "cpu",
            "checkpoint_every": 2,
        },
        "validation": {"clips": 0},
        "output": str(output),
    }
    return merged(spec, changes)


def environment(**more: str) -> dict[str, str]:
    """For a subprocess: as in ``tests/conftest.py``, and nothing that a launcher has set."""
    launcher = ("WORLD_SIZE", "RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT", "ACCELERATE_MIXED_PRECISION")
    kept = {key: value for key, value in os.environ.items() if key not in launcher}
    return {
        **kept,
        "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]),
        "COLUMNS": "200",
        **more,
    }


def python(arguments: Sequence[str], seconds: float = 600, **more: Any) -> subprocess.CompletedProcess[str]:
    """Run this Python in a subprocess, output captured."""
    options: dict[str, Any] = {"env": environment(), "capture_output": True, "text": True, "timeout": seconds, **more}
    return subprocess.run([sys.executable, *arguments], check=False, **options)


def command(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *arguments: object
) -> tuple[int, str, str]:
    """Run ``vader`` in this process: exit code, output, errors."""
    runs = arguments and arguments[0] in ("train", "generate", "evaluate", "estimate") and "--help" not in arguments
    trusted = ["--trust-code"] if runs else []  # the fakes lie outside the specs' folders
    monkeypatch.setattr(sys, "argv", ["vader", *map(str, arguments), *trusted])
    code = 0
    try:
        cli.main()
    except SystemExit as stop:
        code = int(stop.code or 0)
    captured = capsys.readouterr()
    return code, captured.out, captured.err


# -- runs compared


def records(folder: Path) -> list[dict[str, Any]]:
    """The lines of ``metrics.jsonl`` without what no two runs share: times, memory, energy, what processes sent each
    other; and operations, which every start of a run counts in its first round."""
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    own = ("time/", "memory/", "communication/", "cost/flops", "cost/energy_joules")
    return [{k: v for k, v in line.items() if not k.startswith(own)} for line in lines]


def validation_file(path: Path) -> dict[str, Any]:
    """A ``validation.json`` without what no two validations share: how long it took, and its energy."""
    data: dict[str, Any] = json.loads(path.read_text())
    assert data.pop("seconds") > 0
    del data["joules"]
    return data


def adapter(folder: Path) -> dict[str, Tensor]:
    """The tensors of an adapter folder in peft's layout."""
    tensors: dict[str, Tensor] = load_file(folder / ADAPTER_FILE)
    return tensors


def assert_same_adapter(one: Path, other: Path) -> None:
    """Equal bit for bit."""
    first, second = adapter(one), adapter(other)
    assert first.keys() == second.keys()
    different = [name for name in first if not torch.equal(first[name], second[name])]
    assert not different, f"{different} differ"


def assert_same_run(one: Path, other: Path) -> None:
    """Equal metrics at every optimizer step, equal final adapters, equal last checkpoints."""
    assert records(one) == records(other)
    assert_same_adapter(one / "adapter", other / "adapter")
    last = sorted(path.name for path in (one / "checkpoints").iterdir())[-1]
    assert_same_adapter(one / "checkpoints" / last / "adapter", other / "checkpoints" / last / "adapter")
    states = [
        torch.load(run / "checkpoints" / last / "optimizer.pt", weights_only=True)["optimizer"]["state"]
        for run in (one, other)
    ]
    for index, state in states[0].items():
        for key, value in state.items():
            assert torch.equal(torch.as_tensor(value), torch.as_tensor(states[1][index][key])), (index, key)


def left_behind(folder: Path) -> list[Path]:
    """Temporary files and folders that a crash or a failed write left in a run."""
    return [path for path in folder.rglob(".*") if ".partial" in path.name]


# -- damage


def truncate(path: Path) -> None:
    """Cut a file in half."""
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])


def flip(path: Path, place: float = 0.5) -> None:
    """Flip one bit of a file."""
    data = bytearray(path.read_bytes())
    data[int(len(data) * place)] ^= 1
    path.write_bytes(bytes(data))


# -- listeners


class Notices:
    """Collects notices."""

    def __init__(self) -> None:
        self.texts: list[str] = []

    @vader.hookimpl
    def vader_notice(self, text: str) -> None:
        self.texts.append(text)

    def __str__(self) -> str:
        return "\n".join(self.texts)


class At:
    """Does something once, right after an optimizer step."""

    def __init__(self, step: int, action: Callable[[], object]) -> None:
        self._step, self._action = step, action

    @vader.hookimpl
    def vader_step_finished(self, step: int) -> None:
        if step == self._step:
            self._action()


class Crash(vader.VaderError):
    """What a crashing listener raises."""


def crash() -> None:
    """Raise."""
    raise Crash


# -- rewards


class Faulty:
    """Mean brightness, but ``value`` at chosen calls, counted from 0 (a call is a micro-step).

    With ``gradient`` the score stays finite and its gradient alone is not.
    """

    differentiable: ClassVar[bool] = True

    def __init__(self, calls: Sequence[int], value: float = float("nan"), *, gradient: bool = False) -> None:
        self._calls, self._value, self._gradient, self._count = set(calls), value, gradient, 0
        self.__name__ = "faulty"

    def score(self, frames: Tensor, prompts: Sequence[vader.Prompt]) -> Tensor:
        """``(b f c h w)`` -> ``(b,)``."""
        now, self._count = self._count, self._count + 1
        mean = frames.mean(dim=(1, 2, 3, 4))
        if now not in self._calls:
            return mean
        if self._gradient:
            return mean + torch.sqrt(mean * 0)  # the root's slope at 0 is infinite, times 0 is NaN
        return mean * self._value


class FaultyInOne:
    """Mean brightness; the second process's third call is NaN."""

    def __init__(self) -> None:
        self._calls = 0

    def score(self, frames: Tensor, prompts: Sequence[vader.Prompt]) -> Tensor:
        """``(b f c h w)`` -> ``(b,)``."""
        self._calls += 1
        wrong = os.environ.get("RANK") == "1" and self._calls == 3
        return frames.mean(dim=(1, 2, 3, 4)) * (float("nan") if wrong else 1.0)


class Slow:
    """Brightness that takes its time."""

    class Options(vader.Options):
        """Options of :class:`Slow`."""

        seconds: float = 0.005

    def __init__(self, options: Any) -> None:
        self._seconds: float = options.seconds

    def score(self, frames: Tensor, prompts: Sequence[vader.Prompt]) -> Tensor:
        """``(b f c h w)`` -> ``(b,)``."""
        time.sleep(self._seconds)
        return frames.mean(dim=(1, 2, 3, 4))
