"""A run folder holds the source of the code that is in no package, so that the run can be repeated."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tests.contracts.conftest import Install
from tests.integration.harness import Notices, tiny

import vader
from vader.errors import SpecError
from vader.resolve.code_record import record

REWARD = "def glow(frames, prompts):\n    return frames.mean(dim=(1, 2, 3, 4))\n"


class Passed:
    """A reward passed from Python."""

    __name__ = "passed"

    def score(self, frames: Any, prompts: Any) -> Any:
        """``(b f 3 h w)`` -> ``(b,)``."""
        return frames.amax(dim=(1, 2, 3, 4))


@pytest.fixture
def reward(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "mine.py"
    path.write_text(REWARD)
    return path


def spec(**changes: Any) -> dict[str, Any]:
    return tiny("run", rewards=["./mine.py:glow"], train={"steps": 1, "warmup_steps": 0}, **changes)


def index(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "code" / "index.json").read_text())
    return found


def test_a_run_keeps_the_source_of_files_and_of_objects(reward: Path) -> None:
    result = vader.train(spec(), rewards=[Passed()])
    kept = index(result.folder)
    assert (result.folder / "code" / kept["reward ./mine.py:glow"]["file"]).read_text() == REWARD
    assert (result.folder / "code" / kept["reward passed"]["file"]).read_text() == Path(__file__).read_text()
    assert any(title.endswith("fakes.py:FakeBackbone") for title in kept)


def test_a_run_is_repeated_from_what_it_keeps(reward: Path) -> None:
    first = vader.train(spec())
    reward.unlink()
    with pytest.raises(SpecError) as caught:
        vader.check(first.folder / "spec.yaml")
    kept = first.folder / "code" / "mine.py"
    assert f"keeps its source: {kept}." in str(caught.value)
    label = {"name": f"./{kept}:glow", "label": "./mine.py:glow"}
    again = vader.train({**spec(), "rewards": [label], "output": "again"})
    assert again.metrics["reward"] == first.metrics["reward"]


def test_code_that_has_changed_is_kept_beside_the_old_and_said(reward: Path) -> None:
    made = vader.RunSpec.model_validate(spec())
    folder = reward.parent / "run"
    folder.mkdir()
    assert record(folder, made, {}) == []
    assert record(folder, made, {}) == []
    reward.write_text(REWARD + "# another\n")
    (notice,) = record(folder, made, {})
    assert notice == "the code of reward ./mine.py:glow is not that with which the run began, code/mine.py."
    assert (folder / "code" / "mine.py").read_text() == REWARD
    assert (folder / "code" / "mine-2.py").read_text() == REWARD + "# another\n"


def test_a_run_that_goes_on_with_other_code_says_so(reward: Path) -> None:
    vader.train(spec())
    reward.write_text(REWARD + "# another\n")
    notices = Notices()
    vader.train(
        tiny("run", rewards=["./mine.py:glow"], train={"steps": 2, "warmup_steps": 0}), resume=True, listeners=[notices]
    )
    assert "is not that with which the run began" in str(notices)


def test_code_without_a_source_is_said(reward: Path) -> None:
    scope: dict[str, Any] = {}
    exec(REWARD, scope)
    made = vader.RunSpec.model_validate(spec())
    (notice,) = record(reward.parent, made, {"typed": scope["glow"]})
    assert notice == "the source of reward typed cannot be read, so the run folder does not hold it."


def test_a_plugin_that_has_gone_is_named_with_its_version(reward: Path, install: Install) -> None:
    source = "class Glow:\n    def score(self, frames, prompts): return frames.mean(dim=(1, 2, 3, 4))\n"
    folder = install("zz-glow", "[vader.rewards]\nzz_glow = zz_glow:Glow\n", zz_glow=source)
    made = vader.check(tiny("run", rewards=["zz_glow"]))
    run = reward.parent / "run"
    run.mkdir()
    record(run, made, {})
    next(folder.glob("*.dist-info/entry_points.txt")).unlink()
    with pytest.raises(SpecError, match=r"no reward is called 'zz_glow'.*run `pip install zz-glow==1\.2`"):
        vader.check(tiny("run", rewards=["zz_glow"]))
