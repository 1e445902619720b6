"""Plugins that are wrong in ways of their own: each named, none in the way of others, and sound ones called sound."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from tests.contracts.conftest import Install
from typer.testing import CliRunner

import vader
from vader.cli.app import app
from vader.plugins.inventory import rows
from vader.plugins.listeners import EVENTS, listener_fault
from vader.plugins.registry import find
from vader.protocols import capabilities_of
from vader.resolve.validate import check
from vader.runs.events import Events

SCORE = "    def score(self, frames, prompts): return frames.mean((1, 2, 3, 4))\n"
HOOK = "import vader\nclass Heard:\n    @vader.hookimpl\n    def vader_step_finished(self, run, step, metrics): pass\n"
LISTENERS = {
    "zy-object": (HOOK + "it = Heard()\n", "it", "ok", ""),
    "zy-class": (HOOK, "Heard", "ok", ""),
    "zy-module": ("import vader\n@vader.hookimpl\ndef vader_notice(text): pass\n", "", "ok", ""),
    "zy-some": (HOOK.replace(", step, metrics", ""), "Heard", "ok", ""),
    "zy-unmarked": ("class Heard:\n    def vader_notice(self, text): pass\n", "Heard", "broken", "is not marked"),
    "zy-nothing": ("class Heard: pass\n", "Heard", "broken", "no function of it is marked"),
    "zy-number": ("it = 3\n", "it", "broken", "no function of it is marked"),
    "zy-misspelt": (HOOK.replace("step_finished", "step_finishd"), "Heard", "broken", "mean vader_step_finished?"),
    "zy-argument": (HOOK.replace("metrics", "metric"), "Heard", "broken", "takes metric; the event has run"),
    "zy-constructor": (HOOK + "    def __init__(self): 1 / 0\n", "Heard", "broken", "ZeroDivisionError"),
    "zy-needs": (HOOK + "    def __init__(self, path): pass\n", "Heard", "broken", "TypeError"),
    "zy-exits": (HOOK + "    def __init__(self): raise SystemExit\n", "Heard", "broken", "SystemExit"),
}  # fmt: skip


def test_the_events_are_those_of_a_run() -> None:
    wanted = {
        name: tuple(function.__code__.co_varnames[1 : function.__code__.co_argcount])
        for name, function in vars(Events).items()
        if name.startswith("vader_")
    }
    assert dict(EVENTS) == wanted


def test_check_is_right_about_listeners(install: Install, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vader.plugins.inventory.GROUPS", {})
    for distribution, (source, attribute, *_) in LISTENERS.items():
        name = distribution.replace("-", "_")
        value = f"{name}:{attribute}" if attribute else name
        install(distribution, f"[vader.plugins]\n{name} = {value}\n", **{name: source})
    assert {row.status for row in rows() if row.distribution.startswith("zy-")} == {"installed"}
    found = {row.distribution: row for row in rows(check=True, timeout=60)}
    for distribution, (_, _, status, said) in LISTENERS.items():
        assert (found[distribution].status, found[distribution].kind) == (status, "listener"), distribution
        assert said in found[distribution].cause


def test_a_hook_that_may_be_missing_is_no_fault() -> None:
    import pluggy

    class Later:
        @pluggy.HookimplMarker("vader")(optionalhook=True)
        def vader_of_tomorrow(self, run: object) -> None: ...

    assert listener_fault(Later()) is None


OPTIONS = {
    "zy-plain": f"class Good:\n    class Options:\n        level: int = 1\n{SCORE}",
    "zy-prints": f"print('hello')\nclass Good:\n{SCORE}",
    "zy-prints-low": f"import sys\nsys.stdout.write('hello')\nclass Good:\n{SCORE}",
    "zy-instance": f"class Good:\n    Options = 3\n{SCORE}",
    "zy-no-schema": "import vader\nfrom typing import Callable\nclass Good:\n    class Options(vader.Options):\n"
    f"        call: Callable[[int], int] = abs\n{SCORE}",
    "zy-infinite": "import vader\nclass Good:\n    class Options(vader.Options):\n"
    f"        level: float = float('inf')\n{SCORE}",
    "zy-itself": "import vader\nclass Tree(vader.Options):\n    below: 'tuple[Tree, ...]' = ()\n"
    f"class Good:\n    Options = Tree\n{SCORE}",
    "zy-metaclass": "class Meta(type):\n    @property\n    def Options(cls): raise RuntimeError('meta')\n"
    f"class Good(metaclass=Meta):\n{SCORE}",
    "zy-raises": "1 / 0\n",
    "zy-validator": "import vader\nfrom pydantic import field_validator\nclass Good:\n"
    "    class Options(vader.Options):\n"
    "        level: int = 1\n        @field_validator('level')\n        @classmethod\n"
    f"        def check(cls, value): raise KeyError('oops')\n{SCORE}",
    "zy-good": f"class Good:\n{SCORE}",
}
LEFT_OUT = {"zy-plain", "zy-instance", "zy-no-schema", "zy-infinite", "zy-metaclass", "zy-raises"}


def add(install: Install, *distributions: str) -> None:
    for distribution in distributions:
        name = distribution.replace("-", "_")
        install(distribution, f"[vader.rewards]\n{name} = {name}:Good\n", **{name: OPTIONS[distribution]})


def test_no_plugin_breaks_the_schema(install: Install) -> None:
    add(install, *OPTIONS)
    result = CliRunner().invoke(app, ["schema"])
    assert result.exit_code == 0
    schema = json.loads(result.stdout)
    known = [one["if"]["properties"]["name"]["const"] for one in schema["$defs"]["RewardSpec"]["allOf"]]
    assert "zy_good" in known
    assert "zy_validator" in known
    assert "zy_itself" in known
    for distribution in OPTIONS:
        said = f"the options of reward {distribution.replace('-', '_')!r} of {distribution} 1.2 are left out"
        assert (said in result.stderr) == (distribution in LEFT_OUT), distribution


@pytest.mark.parametrize(
    ("distribution", "message"),
    [
        ("zy-validator", "reward 'zy_validator' of zy-validator 1.2 cannot be judged, it raised KeyError: 'oops'"),
        ("zy-metaclass", "reward 'zy_metaclass' of zy-metaclass 1.2 cannot be judged, it raised RuntimeError: meta"),
        ("zy-plain", "has an Options that is not a vader.Options"),
        ("zy-instance", "has an Options that is not a vader.Options"),
    ],
)
def test_what_raises_while_a_spec_is_judged_is_named(install: Install, distribution: str, message: str) -> None:
    add(install, distribution)
    reward = {"name": distribution.replace("-", "_"), "options": {"level": 2}}
    with pytest.raises(vader.SpecError) as caught:
        check({"backbone": "shapes", "prompts": "shapes", "rewards": [reward]})
    assert len(caught.value.problems) == 1
    assert message in str(caught.value)


def test_what_a_plugin_prints_at_import_is_not_output(install: Install, capsys: pytest.CaptureFixture[str]) -> None:
    add(install, "zy-prints")
    find("reward", "zy_prints").load()
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err == "hello\n"


def test_unpackaged_code_prints_nowhere_either(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "mine.py").write_text(OPTIONS["zy-prints"])
    check({"backbone": "shapes", "prompts": "shapes", "rewards": [f"{tmp_path}/mine.py:Good"]})
    assert capsys.readouterr().out == ""
    assert "differentiable" in capabilities_of("reward")
    assert any(name.startswith("vader_unpackaged") for name in sys.modules)
