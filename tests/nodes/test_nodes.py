"""Two machines, as two agents of torchrun on the loopback interface, train as one process does; workers may be killed,
or a machine lost.

``VADER_NODE_KILLS`` says how many are, none by default; the nox session ``nodes`` kills five. ``VADER_NODE_SEED`` says
which and when.
"""

from __future__ import annotations

import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.integration.harness import HERE, environment, merged, records, tiny

import vader

KILLS, SEED = (int(os.environ.get(f"VADER_NODE_{name}", "0")) for name in ("KILLS", "SEED"))
SECONDS = 120 + 90 * KILLS
STEPS, EVERY = 40, 4


def spec(output: Path, **changes: Any) -> dict[str, Any]:
    """Nothing is drawn but prompts and noise, so that one process with two micro-steps makes the same."""
    train = {"steps": STEPS, "checkpoint_every": EVERY, "gradient_accumulation": 1, "keep_checkpoints": 2}
    made = tiny(output, backbone={"adapter": {"dropout": 0.0}}, gradient={"mode": "last"}, frames={"mode": "all"})
    made["rewards"] = [{"name": f"{HERE}:Slow", "label": "slow", "options": {"seconds": 0.1}}]
    return merged(merged(made, {"train": train}), changes)


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def workers(file: Path, rank: int | None = None) -> list[int]:
    """Living processes that train by this file."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            command = (folder / "cmdline").read_bytes().split(b"\0")
            mine = os.fsencode(file) in command and b"torch.distributed.run" not in command
            marked = rank is None or f"\0RANK={rank}\0".encode() in (folder / "environ").read_bytes()
            if mine and marked and "\nState:\tZ" not in (folder / "status").read_text():
                found.append(int(folder.name))
        except OSError:  # it has just ended
            continue
    return found


def parent(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def agent(file: Path, home: Path, port: int, nodes: str, **more: str) -> subprocess.Popen[bytes]:
    """Of a machine with a working folder of its own; the first to come keeps the rendezvous."""
    meeting = ["--rdzv-backend", "c10d", "--rdzv-endpoint", f"127.0.0.1:{port}", "--rdzv-id", "nodes"]
    command = [sys.executable, "-m", "torch.distributed.run", "--nnodes", nodes, "--nproc-per-node", "1", *meeting]
    command += ["--local-addr", "127.0.0.1", "--monitor-interval", "0.5", "--max-restarts", str(2 * KILLS + 2)]
    command += ["-m", "vader", "train", str(file), "--resume", "--trust-code"]
    home.mkdir()
    with (home / "log").open("wb") as log:
        return subprocess.Popen(command, cwd=home, env=environment(**more), stdout=log, stderr=log)


@contextmanager
def machines(file: Path) -> Iterator[list[subprocess.Popen[bytes]]]:
    """Agents that the test adds; what is left of them and of their workers is ended."""
    started: list[subprocess.Popen[bytes]] = []
    try:
        yield started
    finally:
        for one in started:
            one.kill()
            one.wait()
        for pid in workers(file):
            os.kill(pid, signal.SIGKILL)


def logs(homes: list[Path]) -> str:
    return "\n".join((home / "log").read_text(errors="replace")[-5000:] for home in homes)


def done(folder: Path) -> int:
    return len(records(folder)) if (folder / "metrics.jsonl").exists() else 0


def until(condition: Any, deadline: float) -> bool:
    while time.monotonic() < deadline:
        if condition():
            return True
        time.sleep(0.2)
    return False


def assert_unbroken(folder: Path, alone: Path, steps: int = STEPS) -> None:
    """The metrics of a run in one process that nothing has broken."""
    train = {"steps": steps, "gradient_accumulation": 2}
    vader.train(spec(alone, train=train, rewards=[{"name": f"{HERE}:Slow", "label": "slow"}]))
    assert done(folder) == steps
    for ours, unbroken in zip(records(folder), records(alone), strict=True):
        assert ours == pytest.approx(unbroken, rel=1e-3, abs=1e-5)


@pytest.mark.slow
def test_two_machines_train_as_one_process(tmp_path: Path) -> None:
    folder, file, chance = tmp_path / "run", tmp_path / "run.yaml", random.Random(SEED)
    file.write_text(yaml.safe_dump(spec(folder)))
    homes, deadline, port = [tmp_path / "one", tmp_path / "two"], time.monotonic() + SECONDS, free_port()
    with machines(file) as agents:
        agents += [agent(file, home, port, "2") for home in homes]
        for kill in range(KILLS):
            wanted = (kill + 1) * STEPS // (KILLS + 1) + chance.randint(-2, 2)
            rank = chance.randrange(2)
            assert until(lambda wanted=wanted: done(folder) >= wanted, deadline), logs(homes)
            time.sleep(chance.uniform(0, 0.3))
            victims = workers(file, rank)
            assert len(victims) == 1, logs(homes)
            os.kill(victims[0], signal.SIGKILL)
            assert until(lambda victims=victims, rank=rank: victims != workers(file, rank), deadline)
        assert until(lambda: all(agent.poll() is not None for agent in agents), deadline), logs(homes)
        assert [agent.returncode for agent in agents] == [0, 0], logs(homes)
        assert workers(file) == []
    assert_unbroken(folder, tmp_path / "alone")


@pytest.mark.slow
def test_a_machine_that_comes_is_taken_in_and_one_that_is_lost_is_gone_without(tmp_path: Path) -> None:
    folder, file, steps = tmp_path / "run", tmp_path / "run.yaml", 120
    file.write_text(yaml.safe_dump(spec(folder, train={"steps": steps, "gradient_accumulation": 2})))
    homes, deadline, port = [tmp_path / "one", tmp_path / "two"], time.monotonic() + 400, free_port()
    apart = {"TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"}  # else torch tells a machine that comes later no address
    with machines(file) as agents:
        agents.append(agent(file, homes[0], port, "1:2", **apart))
        assert until(lambda: done(folder) >= 5, deadline), logs(homes[:1])
        agents.append(agent(file, homes[1], port, "1:2", **apart))
        assert until(lambda: "on 2 processes, resuming" in logs(homes), deadline), logs(homes)
        common = done(folder)
        assert until(lambda: done(folder) >= common + 5, deadline), logs(homes)
        others = [pid for pid in workers(file) if parent(pid) == agents[1].pid]
        assert len(others) == 1
        agents[1].kill()
        os.kill(others[0], signal.SIGKILL)
        assert until(lambda: agents[0].poll() is not None, deadline), logs(homes)
        assert agents[0].returncode == 0, logs(homes)
    assert "on 1 process, resuming" in logs(homes)
    assert_unbroken(folder, tmp_path / "alone", steps)
