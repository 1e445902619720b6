"""Rewards in another process: the same numbers, clear errors, nothing left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.contracts.isolated_rewards import Network, redness
from tests.integration.harness import environment, tiny

import vader
from vader import Prompt, Runtime
from vader.errors import IsolationError, SpecError, WeightsError
from vader.plugins.isolation.client import IsolatedReward
from vader.plugins.isolation.process import Process

FILE = str(Path(__file__).with_name("isolated_rewards.py"))
CPU = Runtime(torch.device("cpu"), torch.float32)
LONG = 300.0
"""Seconds that a busy machine may take to start Python and import torch."""


def isolate(
    name: str, options: dict[str, Any] | None = None, differentiable: bool = True, timeout: float = LONG
) -> Any:
    """A reward of the file in another process, without asking that about it first."""
    launch = {
        "python": sys.executable,
        "name": f"{FILE}:{name}",
        "label": name,
        "options": options or {},
        "timeout": timeout,
        "startup_timeout": LONG,
    }
    kind = type("Isolated", (IsolatedReward,), {"launch": launch, "differentiable": differentiable})
    return kind(CPU)


def clips(b: int = 2, f: int = 3) -> torch.Tensor:
    return torch.rand(b, f, 3, 8, 10, generator=torch.Generator().manual_seed(b * 10 + f))


PROMPTS = [Prompt("a red circle"), Prompt("a fox", {"more": 3})]


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return Path(f"/proc/{pid}/stat").read_text().split()[2] != "Z" if Path("/proc").is_dir() else True


def gone(pid: int, seconds: float = 20) -> bool:
    end = time.monotonic() + seconds
    while alive(pid) and time.monotonic() < end:
        time.sleep(0.05)
    return not alive(pid)


@pytest.fixture(scope="module")
def network() -> Iterator[Any]:
    reward = isolate("Network", {"seed": 3})
    yield reward
    reward.close()


@pytest.fixture
def misbehaving() -> Iterator[Callable[..., Any]]:
    made: list[Any] = []

    def make(**more: Any) -> Any:
        made.append(isolate("Misbehaving", **more))
        return made[-1]

    yield make
    for reward in made:
        reward.close()


class TestNumbers:
    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
    def test_of_scores_and_gradients_are_those_of_this_process(self, network: Any, dtype: torch.dtype) -> None:
        here = Network(Network.Options(seed=3), CPU)
        results = []
        for reward in (here, network):
            for size in (2, 1):  # memory that has grown is used again for less
                frames = clips(size).to(dtype).requires_grad_(True)
                scores = reward.score(frames, PROMPTS[:size])
                (scores * torch.tensor([0.7, -1.3])[:size]).sum().backward()
                results.append((scores.detach(), frames.grad))
        for (one, first), (other, second) in zip(results[:2], results[2:], strict=True):
            assert one.dtype == other.dtype
            assert first.dtype == second.dtype
            torch.testing.assert_close(other, one, rtol=0, atol=1e-6)
            torch.testing.assert_close(second, first, rtol=0, atol=1e-6)
            assert second.abs().max() > 0

    def test_of_two_graphs_at_once_are_kept_apart(self, network: Any) -> None:
        here = Network(Network.Options(seed=3), CPU)
        gradients = []
        for reward in (here, network):
            leaves = [clips(2).requires_grad_(True), (1 - clips(2)).requires_grad_(True)]
            scores = [reward.score(leaf, PROMPTS) for leaf in leaves]
            (scores[0] * scores[1]).sum().backward()
            gradients.append([leaf.grad for leaf in leaves])
        for one, other in zip(*gradients, strict=True):
            torch.testing.assert_close(other, one, rtol=0, atol=1e-6)

    def test_without_gradient_carry_none(self, network: Any) -> None:
        assert not network.score(clips(), PROMPTS).requires_grad
        with torch.no_grad():
            assert not network.score(clips().requires_grad_(True), PROMPTS).requires_grad

    def test_of_a_function(self) -> None:
        reward = isolate("redness")
        frames = clips().requires_grad_(True)
        torch.testing.assert_close(reward.score(frames, PROMPTS), redness(frames, PROMPTS))
        reward.close()

    def test_of_what_is_not_differentiable(self) -> None:
        reward = isolate("Detached", differentiable=False)
        scores = reward.score(clips().requires_grad_(True), PROMPTS)
        assert not scores.requires_grad
        torch.testing.assert_close(scores, clips().amax(dim=(1, 2, 3, 4)))
        reward.close()


class TestTrouble:
    def test_of_a_reward_that_raises_or_ends_is_an_error_with_its_last_lines(
        self, misbehaving: Callable[..., Any]
    ) -> None:
        reward = misbehaving()
        with pytest.raises(IsolationError, match=r"it raised ValueError: not today(.|\n)*isolated_rewards\.py"):
            reward.score(clips(), [Prompt("raise"), Prompt("")])
        with pytest.raises(WeightsError, match=r"^x\.safetensors is missing\.$"):
            reward.score(clips(), [Prompt("weights"), Prompt("")])
        with pytest.raises(IsolationError, match="metadata of prompt 'a'"):
            reward.score(clips(1), [Prompt("a", {"b": {1}})])
        assert reward.score(clips(), PROMPTS).shape == (2,), "the process has gone on"
        start = time.monotonic()
        with pytest.raises(IsolationError) as caught:
            reward.score(clips(), [Prompt("die"), Prompt("")])
        assert time.monotonic() - start < 10
        message = str(caught.value)
        assert message.startswith(
            f"isolated reward 'Misbehaving' ({sys.executable}): it ended (exit code 3) at 'score'"
        )
        assert "about to die" in message
        with pytest.raises(IsolationError, match="it was ended"):
            reward.score(clips(), PROMPTS)

    def test_of_a_process_that_is_killed_between_calls(self, misbehaving: Callable[..., Any]) -> None:
        reward = misbehaving()
        os.kill(reward._process._process.pid, signal.SIGKILL)
        start = time.monotonic()
        with pytest.raises(IsolationError, match=r"it ended \(signal SIGKILL\)"):
            reward.score(clips(), PROMPTS)
        assert time.monotonic() - start < 10

    def test_of_a_process_that_hangs_is_an_error_and_ends_it(self, misbehaving: Callable[..., Any]) -> None:
        reward = misbehaving(timeout=2.0)
        pid = reward._process._process.pid
        with pytest.raises(IsolationError, match=r"no answer to 'score' within 2 s; it was ended(.|\n)*about to hang"):
            reward.score(clips(), [Prompt("hang"), Prompt("")])
        assert gone(pid)

    @pytest.mark.parametrize(
        "how", [*(pytest.param(how, marks=pytest.mark.slow) for how in ("close", "return")), "kill"]
    )
    def test_leaves_no_process_behind_however_the_run_ends(self, tmp_path: Path, how: str) -> None:
        pids = tmp_path / "pids"
        lines = [
            "import os, signal, sys; from vader.plugins.isolation.process import Process",
            f"process, options = Process(sys.executable, 'parent'), {{'pids': {str(pids)!r}}}",
            f"name, place = {FILE + ':Parent'!r}, {{'device': 'cpu', 'dtype': 'float32'}}",
            f"process.ask({LONG}, op='build', name=name, options=options, **place)",
            {"kill": "os.kill(os.getpid(), signal.SIGKILL)", "close": "process.end()", "return": ""}[how],
        ]
        command = [sys.executable, "-W", "error", "-c", "\n".join(lines)]
        done = subprocess.run(command, env=environment(), capture_output=True, timeout=600, check=False)
        assert done.returncode == (-signal.SIGKILL if how == "kill" else 0), done.stderr
        assert all(gone(int(pid)) for pid in pids.read_text().split())


class TestSpec:
    def reward(self, name: str, **more: Any) -> dict[str, Any]:
        return {"name": f"{FILE}:{name}", "label": "outside", "isolate": {"python": sys.executable}, **more}

    def test_trains_as_in_this_process(self, tmp_path: Path) -> None:
        results = []
        for place, isolated in (("inside", None), ("outside", {"python": sys.executable})):
            reward = {**self.reward("Network", options={"seed": 1}), "isolate": isolated}
            changes = {"rewards": [reward], "train": {"steps": 2, "warmup_steps": 0, "checkpoint_every": 9}}
            results.append(vader.train(tiny(tmp_path / place, **changes)))
        assert results[1].metrics["reward"] == pytest.approx(results[0].metrics["reward"], abs=1e-6)
        assert results[1].metrics["grad_norm"] == pytest.approx(results[0].metrics["grad_norm"], rel=1e-4)

    def test_is_judged_in_the_other_process_before_anything_is_loaded(self, tmp_path: Path) -> None:
        spec = tiny(tmp_path, rewards=[self.reward("Network", options={"sede": 1, "seed": -2}), self.reward("Absent")])
        with pytest.raises(SpecError) as caught:
            vader.check(spec)
        message = str(caught.value)
        assert "rewards.0.options.sede: Extra inputs are not permitted; found 1." in message
        assert "rewards.0.options.seed: Input should be greater than or equal to 0; found -2." in message
        assert "rewards.1.isolate: " in message
        assert "has no 'Absent'" in message

    def test_knows_the_capabilities_of_the_other_process(self, tmp_path: Path) -> None:
        with pytest.raises(SpecError, match="is not differentiable, and method 'reward_gradient' needs its gradient"):
            vader.check(tiny(tmp_path, rewards=[self.reward("Detached")]))

    @pytest.mark.parametrize(
        ("python", "said"),
        [("/not/there", "cannot be started: No such file"), ("/bin/false", "it ended (exit code 1)")],
    )
    def test_names_an_interpreter_that_is_none(self, tmp_path: Path, python: str, said: str) -> None:
        reward = {**self.reward("Network"), "isolate": {"python": python}}
        with pytest.raises(SpecError) as caught:
            vader.check(tiny(tmp_path, rewards=[reward]))
        assert "rewards.0.isolate: isolated reward" in str(caught.value)
        assert said in str(caught.value)

    def test_says_what_is_wrong_with_isolate_itself(self, tmp_path: Path) -> None:
        reward = {**self.reward("Network"), "isolate": {"pyhton": "x"}}
        with pytest.raises(SpecError, match=r"rewards\.0\.isolate\.pyhton: unknown field 'pyhton'"):
            vader.check(tiny(tmp_path, rewards=[reward]))


def test_the_child_imports_a_small_part_of_vader(tmp_path: Path) -> None:
    (tmp_path / "asks.py").write_text(
        "import sys\n"
        "def modules(frames, prompts):\n"
        "    raise ValueError(sorted(name for name in sys.modules if name.startswith(('vader', 'pydantic', 'yaml'))))\n"
    )
    process = Process(sys.executable, "asks")
    try:
        process.ask(LONG, op="build", name=f"{tmp_path / 'asks.py'}:modules", options={}, device="cpu", dtype="float32")
        process.memory(12)
        with pytest.raises(IsolationError) as caught:
            process.ask(
                LONG,
                op="score",
                id=0,
                shape=[1, 1, 3, 1, 1],
                dtype="float32",
                size=12,
                prompts=[["", {}, None]],
                grad=False,
            )
    finally:
        process.end()
    names = str(caught.value).splitlines()[0]
    assert "vader.protocols" in names
    for heavy in ("vader.spec", "vader.resolve.validate", "vader.resolve.build", "pydantic", "yaml", "vader_diffusers"):
        assert f"'{heavy}'" not in names
