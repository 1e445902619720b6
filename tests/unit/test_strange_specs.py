"""Specs from strangers: whatever the text, one short error within seconds, or a spec that means what it says."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

import vader
from vader.errors import PathError, SpecError, cut
from vader.paths import read_limited, user_path
from vader.resolve.validate import check
from vader.spec import AdapterSpec, Options, RunSpec
from vader.spec.reading import read_source
from vader.spec.yaml_text import DEPTH, NotYamlError, load

LEAST = "backbone: shapes\nprompts: {name: list, options: {prompts: [a fox]}}\nrewards: [shapes_colourfulness]\n"
QUICK = settings(
    max_examples=60,
    deadline=timedelta(seconds=5),
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
BOMB = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]\n" for n in range(1, 10)
)
MERGES = "m0: &m0 {k0: 1, k1: 1}\n" + "".join(
    f"m{n}: &m{n} {{<<: [{', '.join([f'*m{n - 1}'] * 9)}]}}\n" for n in range(1, 9)
)


def refusal(call: Callable[[], object]) -> str:
    """What an input is refused with; nothing for one that is taken."""
    try:
        call()
    except (SpecError, NotYamlError) as error:
        return str(error)
    return ""


TEXTS = {
    "alias bomb": BOMB,
    "alias bomb of merges": MERGES,
    "alias bomb of mappings": BOMB.replace("[x", "[{x: y}"),
    "alias to itself": "backbone: &a [*a]\n",
    "merge of itself": "backbone: &a {<<: *a}\n",
    "date that is none": "train: {steps: 2026-02-30}\n",
    "time that is none": "train: {steps: 2026-02-03 99:99:99}\n",
    "hexadecimal nothing": "train: {steps: 0x_}\n",
    "binary nothing": "train: {steps: 0b_}\n",
    "no boolean": "train: {steps: !!bool x}\n",
    "no number": "train: {steps: !!int x}\n",
    "empty number": "train: {steps: !!int ''}\n",
    "no float": "train: {steps: !!float x}\n",
    "5,000 digits": f"train: {{steps: {'9' * 5000}}}\n",
    "300 digits": f"train: {{steps: {'9' * 300}}}\n",
    "a million digits": f"train: {{steps: {'9' * 1_000_000}}}\n",
    "base 60": f"train: {{steps: 1{':1' * 300_000}}}\n",
    "infinite": "train: {learning_rate: .inf}\n",
    "1e400": "train: {learning_rate: 1.0e+400}\n",
    "deep lists": "[" * 100_000,
    "deep mappings": "{a: " * 100_000,
    "deep blocks": "".join(f"{' ' * n}a:\n" for n in range(1000)),
    "deep and closed": f"train: {'[' * 400}{']' * 400}\n",
    "100,000 unknown keys": "".join(f"key{n}: 1\n" for n in range(100_000)),
    "20,000 unknown keys": "".join(f"key{n}: 1\n" for n in range(20_000)),
    "a key of a megabyte": f"{'k' * 1_000_000}: 1\n",
    "a value of a megabyte": f"train: {'v' * 1_000_000}\n",
    "a million values": f"prompts: [{'a, ' * 1_000_000}]\n",
    "a tag of Python": "train: !!python/object/apply:os.system [true]\n",
    "a tag of binary": "train: {steps: !!binary aGk=}\n",
    "a set": "train: {steps: !!set {a}}\n",
    "a tag of nobody": "train: !mine 3\n",
    "two documents": f"{LEAST}---\n{LEAST}",
    "a key that is a list": "? [a, b]\n: 1\n",
    "a key that is a number": "1: 2\n",
    "a key that is null": "~: 2\n",
    "an equals sign": "train: =\n",
    "a null character": "train: \0\n",
    "a lone surrogate": 'train: "\\ud800"\n',
    "a tab": "train:\n\tsteps: 1\n",
    "steps are true": "train: {steps: true}\n",
    "a rate is true": "train: {learning_rate: true}\n",
    "a scalar": "3\n",
    "nothing": "",
}


@pytest.mark.parametrize("name", TEXTS)
def test_a_strange_text_gives_one_short_error_soon(name: str, tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    path.write_text(TEXTS[name] if name not in ("steps are true",) else LEAST + TEXTS[name], encoding="utf-8")
    start = time.monotonic()
    with pytest.raises(SpecError) as caught:
        check(path)
    assert time.monotonic() - start < 5
    assert 20 < len(str(caught.value)) < 8000


def test_a_file_that_never_ends_is_not_read_to_its_end() -> None:
    with pytest.raises(SpecError, match="larger than 4 MiB"):
        check("/dev/zero")


@pytest.mark.parametrize(
    ("field", "value"),
    [("train.steps", "true"), ("sampler.steps", "yes"), ("train.learning_rate", "false"), ("gradient.k", "on"),
     ("backbone.adapter.rank", "true"), ("video.fps", "true"), ("rewards.0.weight", "true")],
)  # fmt: skip
def test_true_is_not_1(field: str, value: str, tmp_path: Path) -> None:
    (tmp_path / "run.yaml").write_text(LEAST)
    with pytest.raises(SpecError) as caught:
        check(tmp_path / "run.yaml", [f"{field}={value}"])
    assert f"{field}: expected a number, not true or false; found" in str(caught.value)


def test_true_is_no_number_in_a_components_options_and_in_lists() -> None:
    class Mine(Options):
        levels: tuple[float, ...] = (1.0,)
        either: bool | int = 1
        on: bool = False

    with pytest.raises(ValidationError, match="not true or false"):
        Mine.model_validate({"levels": [0.5, True]})
    made = Mine.model_validate({"either": True, "on": True})
    assert made.either is True
    assert made.on is True
    assert AdapterSpec(rank=1).rank == 1


def test_dates_are_text() -> None:
    assert load("a: 2026-02-03\nb: 2026-02-30\nc: 12:30:45 x") == {"a": "2026-02-03", "b": "2026-02-30",
                                                                  "c": "12:30:45 x"}  # fmt: skip


def test_what_a_run_writes_it_reads_back(tmp_path: Path) -> None:
    spec = RunSpec.model_validate({"backbone": "fake", "prompts": {"name": "list", "options": {"prompts": [
        "2026-02-30", "0x_", "=", "true", "1e3", "\u2028 \x85 \x0b", "1:30", "~", "a: b #c"]}}, "rewards": ["bright"],
        "output": "2026-01-01"})  # fmt: skip
    assert RunSpec.model_validate(load(spec.to_yaml())) == spec
    assert load(yaml.safe_dump({"a": [1, 2.5, True, None, "x"]})) == {"a": [1, 2.5, True, None, "x"]}


@pytest.mark.parametrize(
    "override",
    ["rewards.²=1", "rewards.-1=1", "rewards.٣=1", f"rewards.{'9' * 5000}=1", "train.steps=0x_", "train.steps=[[[",
     f"train.steps={'9' * 5000}", "train.steps=2026-02-30", "x=!!bool x", f"{'a.' * 5000}b=1", "train.steps=&a [*a]",
     "train.steps=\ud800", "\0=1", "train.steps=" + "[" * 100_000, "train=" + "k" * 100_000, "rewards.0.name.x.y=1"],
)  # fmt: skip
def test_a_strange_override_gives_one_short_error(override: str, tmp_path: Path) -> None:
    (tmp_path / "run.yaml").write_text(LEAST)
    with pytest.raises(SpecError) as caught:
        check(tmp_path / "run.yaml", [override])
    assert len(str(caught.value)) < 2000


def deep(levels: int) -> Any:
    value: Any = "x"
    for _ in range(levels):
        value = {"a": value}
    return value


def cyclic() -> dict[str, Any]:
    value: dict[str, Any] = {}
    value["train"] = value
    return value


@pytest.mark.parametrize(
    "spec",
    [cyclic(), deep(5000), {f"k{n}": n for n in range(100_001)}, {1: 2}, {"train": {"steps": 10**5000}}, {None: None},
     ["backbone"], 3, None, {"train": object()}],
)  # fmt: skip
def test_a_strange_object_gives_one_short_error(spec: Any) -> None:
    with pytest.raises(SpecError) as caught:
        vader.check(spec)
    assert len(str(caught.value)) < 8000


@QUICK
@given(text=st.text(max_size=300))
@example(text="a: &x\n  - *x")
def test_any_text_is_read_or_refused(text: str, tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    path.write_text(text, encoding="utf-8", newline="")
    assert len(refusal(lambda: read_source(path))) < 8000
    assert list(tmp_path.iterdir()) == [path]


_SCRAPS = r"""a &a *a !!int !!bool !x [ ] { } : ? | > <<: 0x_ 2026-02-30 1:2:3 .inf ~ ' " # % --- ... = ,"""
SCRAPS = st.lists(st.sampled_from([*_SCRAPS.split(), "\n", "  ", "- "]), max_size=30).map("".join)


@QUICK
@given(text=SCRAPS)
def test_scraps_of_yaml_are_data_or_refused(text: str) -> None:
    found: list[Any] = []
    assert len(refusal(lambda: found.append(load(text)))) < 400
    assert all(isinstance(one, dict | list | str | int | float | bool | None) for one in found)


@QUICK
@given(
    path=st.lists(st.one_of(st.sampled_from(["train", "rewards", "0", "steps", "options"]), st.text(max_size=4))),
    value=SCRAPS,
)
def test_any_override_is_applied_or_refused(path: list[str], value: str, tmp_path: Path) -> None:
    (tmp_path / "run.yaml").write_text(LEAST)
    assert len(refusal(lambda: check(tmp_path / "run.yaml", [f"{'.'.join(path)}={value}"]))) < 8000


PATHS = {
    "unknown user": ("~nobody-of-that-name/x", "no home folder of a user 'nobody-of-that-name' is known"),
    "null": ("a\0b", "null character"),
    "long name": ("x" * 300, "a name of 300 bytes"),
    "long path": ("a/" * 3000, "6000 bytes|5999 bytes"),
    "long in bytes": ("\N{SNOWMAN}" * 100, "a name of 300 bytes"),
    "surrogate": ("\ud800", "no text"),
    "empty": ("", "empty"),
}


@pytest.mark.parametrize("name", PATHS)
def test_a_path_that_no_file_can_have_is_named(name: str) -> None:
    said, reason = PATHS[name]
    with pytest.raises(PathError, match=reason) as caught:
        user_path(said)
    assert len(str(caught.value)) < 600


def test_a_home_that_is_not_known_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HOME", raising=False)
    monkeypatch.setattr("os.path.expanduser", lambda path: path)  # what it does for a bare uid
    with pytest.raises(PathError, match="no home folder of this user is known"):
        user_path("~/runs")


@pytest.mark.parametrize("said", ["~nobody-of-that-name/x", "a\0b", "x" * 300, "\ud800"])
@pytest.mark.parametrize(
    "field", ["output", "backbone.adapter.init", "prompts", "rewards.0.name", "rewards.0.isolate.python"]
)
def test_every_path_of_a_spec_is_judged(field: str, said: str) -> None:
    spec: dict[str, Any] = {"backbone": "shapes", "prompts": "shapes", "rewards": [{"name": "shapes_motion"}]}
    if field == "output":
        spec["output"] = said
    elif field == "backbone.adapter.init":
        spec["backbone"] = {"name": "shapes", "adapter": {"init": said}}
    elif field == "prompts":
        spec["prompts"] = {"name": "file", "options": {"path": said}}
    elif field == "rewards.0.name":
        spec["rewards"] = [{"name": f"{said}.py:Mine"}]
    else:
        spec["rewards"] = [{"name": "shapes_motion", "isolate": {"python": said}}]
    with pytest.raises(SpecError) as caught:
        check(spec)
    assert f"  {field.removesuffix('.python')}" in str(caught.value)
    assert len(str(caught.value)) < 1500


@QUICK
@given(said=st.text(max_size=400))
def test_any_text_is_a_path_or_refused(said: str) -> None:
    try:
        path = user_path(said)
    except PathError:
        return
    assert path.exists() in (True, False)


def test_a_limit_of_reading(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"\xef\xbb\xbfabc")
    assert read_limited(tmp_path / "a", 6) == "abc"
    with pytest.raises(OSError, match="larger than"):
        read_limited(tmp_path / "a", 5)


def test_long_values_are_cut() -> None:
    class Rude:
        def __repr__(self) -> str:
            raise ValueError

    for value in ("x" * 10**6, [0] * 10**6, 10**6000, Rude(), {n: n for n in range(10**5)}, deep(DEPTH)):
        assert len(cut(value)) < 400
