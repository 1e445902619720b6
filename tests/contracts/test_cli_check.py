"""``vader check``: a line for every check, exit code 1 for a broken contract, 2 for a wrong command."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.contracts.conftest import Install

from vader.cli.app import main

Check = Callable[..., tuple[int, str, str]]
HERE = Path(__file__).parent


@pytest.fixture
def check(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Check:
    """Runs ``vader check`` in this process: exit code, output, errors."""

    def run(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["vader", "check", *arguments])
        code = 0
        try:
            main()
        except SystemExit as stop:
            code = int(stop.code or 0)
        out, err = capsys.readouterr()
        return code, out, err

    return run


def test_a_sound_component(check: Check) -> None:
    code, out, _ = check("list", "--set", "prompts=[a fox, a boat, rain]")
    assert code == 0
    lines = out.splitlines()
    assert lines[0] == "prompts list"
    assert any(line.split()[:2] == ["ok", "draws_are_seeded"] for line in lines)
    assert lines[-1].strip().endswith("checks hold, 0 fail.")


def test_a_broken_one_says_what_is_wrong(check: Check) -> None:
    name = f"{HERE / 'mutants_prompts.py'}:Blank"
    code, out, _ = check(name, "--kind", "prompts")
    assert code == 1
    line, message = next((a, b) for a, b in zip(out.splitlines(), out.splitlines()[1:], strict=False) if "FAILED" in a)
    assert "prompts_have_text" in line
    assert "of 50 prompts have no text" in message
    code, out, _ = check(name, "--kind", "prompts", "--json")
    failed = [entry for entry in json.loads(out) if entry["status"] == "failed"]
    assert [entry["check"] for entry in failed] == ["prompts_have_text"]
    code, out, _ = check(name, "--kind", "prompts", "--expect", "prompts_have_text=silence is a prompt")
    assert code == 0
    assert "because silence is a prompt" in out


def test_a_reward_gets_the_size_and_prompts_asked_for(check: Check, install: Install) -> None:
    source = (
        "class Picky:\n"
        "    needs_prompt = True\n"
        "    def score(self, frames, prompts):\n"
        "        assert frames.shape[-2] >= 20 and prompts[0].text in ('a', 'bb'), frames.shape\n"
        "        return frames.float().mean((1, 2, 3, 4)) * len(prompts[0].text)\n"
    )
    install("zz-picky", "[vader.rewards]\nzz_picky = zz_picky:Picky\n", zz_picky=source)
    assert check("zz_picky", "--size", "20x24", "-p", "a", "-p", "a", "--expect", "needs_prompt_is_true=alike")[0] == 0
    assert check("zz_picky", "--size", "16x16", "-p", "a")[0] == 1


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["zz_none"], "no component is called 'zz_none'. Installed: "),
        (["./mine.py:Mine"], "--kind: './mine.py:Mine' is unpackaged code; say what it is"),
        (["list", "--kind", "promts"], "--kind: expected reward, backbone, sampler, prompts, method; found 'promts'."),
        (["list", "--size", "big"], "--size: expected HEIGHTxWIDTH such as 64x64; found 'big'."),
        (["wan", "--video", "5x64"], "--video: expected FRAMESxHEIGHTxWIDTH such as 5x64x64; found '5x64'."),
        (["list", "--set", "prompts"], "--set: expected NAME=VALUE; found 'prompts'."),
        (["list", "--expect", "speed=slow"], "--expect: no check of a prompts is called speed."),
    ],
)
def test_a_wrong_command(check: Check, arguments: list[str], said: str) -> None:
    code, out, err = check(*arguments)
    assert code == 2
    assert said in err
    assert not out
