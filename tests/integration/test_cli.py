"""The command line: what it prints, what it imports, and what its files are good for."""

from __future__ import annotations

import io
import json
import re
import shutil
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from rich.console import Console
from tests.integration.harness import (
    HERE,
    PROMPT_LENGTH,
    assert_same_run,
    command,
    environment,
    python,
    records,
    tiny,
)

import vader
from vader.cli.progress import ProgressListener
from vader.plugins import registry

HEAVY = ("torch", "diffusers", "transformers", "accelerate", "peft", "numpy", "imageio")


@pytest.fixture
def vader_command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Any:
    monkeypatch.setenv("COLUMNS", "200")
    return lambda *arguments: command(monkeypatch, capsys, *arguments)


def write(path: Path, made: dict[str, Any]) -> Path:
    path.write_text(yaml.safe_dump(made, sort_keys=False))
    return path


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cli") / "run"
    vader.train(tiny(folder, validation={"clips": 2, "save_clips": 1, "rewards": [PROMPT_LENGTH]}))
    return folder


# -- light


@pytest.mark.parametrize(
    "arguments", [["--help"], ["plugins"], ["plugins", "--json"], ["prompts"], ["train", "--help"], ["--version"]]
)
def test_answers_without_importing_torch(arguments: list[str]) -> None:
    probe = (
        "import sys, runpy\n"
        f"sys.argv = ['vader', *{arguments!r}]\n"
        "try: runpy.run_module('vader', run_name='__main__', alter_sys=True)\n"
        "except SystemExit as stop: assert not stop.code, stop.code\n"
        f"print('HEAVY', [name for name in {HEAVY!r} if name in sys.modules])\n"
    )
    done = python(["-c", probe])
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "HEAVY []"
    assert len(done.stdout) > 10


def test_help_names_every_command(vader_command: Any) -> None:
    code, out, _ = vader_command("--help")
    assert code == 0
    for name in ("train", "generate", "evaluate", "plugins", "prompts", "schema", "init", "report"):
        assert re.search(rf"^\W*{name} ", out, re.MULTILINE), name
    for name in ("train", "generate", "evaluate"):
        code, out, _ = vader_command(name, "--help")
        assert code == 0
        assert "--set" in out


def test_a_mistyped_command_or_option(vader_command: Any) -> None:
    code, _, err = vader_command("trian")
    assert code == 2
    assert "trian" in err
    code, _, err = vader_command("train", "x.yaml", "--resum")
    assert code == 2
    assert "--resume" in err


# -- plugins, schema, init


def test_plugins(vader_command: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(registry.NOT_INSTALLED["reward"], "elsewhere", "vader-plugin-elsewhere")
    code, out, _ = vader_command("plugins")
    lines = out.splitlines()
    assert code == 0
    assert lines[0].split()[:4] == ["kind", "name", "distribution", "version"]
    assert any(line.split()[:3] == ["sampler", "ddim", "vader-core"] and "installed" in line for line in lines)
    assert any("elsewhere" in line and "not installed: pip install vader-plugin-elsewhere" in line for line in lines)
    code, out, _ = vader_command("plugins", "--json")
    rows = json.loads(out)
    assert code == 0
    assert len(rows) == len(lines) - 1
    row = next(row for row in rows if row["name"] == "list")
    assert row["kind"] == "prompts"
    assert row["distribution"] == "vader-core"
    assert row["status"].startswith("installed")
    assert row["version"] == vader.__version__


def branches(schema: dict[str, Any], definition: str) -> dict[str, dict[str, Any]]:
    """Per component the schema of its options."""
    return {
        one["if"]["properties"]["name"]["const"]: one["then"]["properties"]["options"]
        for one in schema["$defs"][definition]["allOf"]
    }


def references(node: Any) -> Iterator[str]:
    if isinstance(node, dict):
        if isinstance(node.get("$ref"), str):
            yield node["$ref"]
        for value in node.values():
            yield from references(value)
    elif isinstance(node, list):
        for value in node:
            yield from references(value)


def test_schema(vader_command: Any) -> None:
    code, out, _ = vader_command("schema")
    schema = json.loads(out)
    assert code == 0
    assert {ref.rsplit("/", 1)[-1] for ref in references(schema)} <= set(schema["$defs"]), "a reference leads nowhere"
    assert set(schema["properties"]) == set(vader.RunSpec.model_fields)
    assert schema["additionalProperties"] is False
    sources = branches(schema, "PromptsSpec")
    assert sources["file"]["properties"]["path"]["type"] == "string"
    assert sources["file"]["required"] == ["path"]
    assert sources["list"]["additionalProperties"] is False
    assert "ddim" in schema["$defs"]["SamplerSpec"]["properties"]["name"]["examples"]
    for kind, definition in (("backbone", "BackboneSpec"), ("reward", "RewardSpec"), ("sampler", "SamplerSpec")):
        found = branches(schema, definition)
        for entry in registry.entries(kind):
            try:
                options = getattr(entry.load(), "Options", None)
            except vader.RegistryError:  # a broken plugin spoils no schema
                assert entry.name not in found
                continue
            wanted = set(options.model_fields) if options is not None else set()
            assert set(found[entry.name].get("properties", {})) == wanted, entry.name
    steps = schema["$defs"]["TrainSpec"]["properties"]["steps"]
    assert steps["minimum"] == 1
    assert steps["description"]


def test_init(vader_command: Any, tmp_path: Path) -> None:
    file = tmp_path / "my run.yaml"
    code, out, _ = vader_command("init", file)
    assert code == 0
    assert str(file) in out
    text = file.read_text()
    spec = vader.RunSpec.model_validate(yaml.safe_load(text))
    assert list(yaml.safe_load(text)) == list(vader.RunSpec.model_fields), "every section is shown"
    assert spec.train.model_fields_set == set(type(spec.train).model_fields), "every field is shown"
    for section in ("learning_rate", "guidance_scale", "validate_every"):
        assert re.search(rf"^ +{section}: .*# \w", text, re.MULTILINE), "every field is explained"
    code, out, err = vader_command("train", file, "--dry-run")
    if any(entry.name == "shapes" for entry in registry.entries("backbone")):
        assert (code, err) == (0, ""), err
    else:
        assert code == 2, "names that are to be filled in"
        assert "rewards" in err


def test_init_overwrites_only_by_force(vader_command: Any, tmp_path: Path) -> None:
    file = tmp_path / "run.yaml"
    file.write_text("mine")
    code, _, err = vader_command("init", file)
    assert (code, file.read_text()) == (2, "mine")
    assert "exists. Use --force" in err
    code, _, _ = vader_command("init", file, "--force")
    assert code == 0
    assert "backbone:" in file.read_text()
    code, _, err = vader_command("init", tmp_path / "nowhere" / "run.yaml")
    assert code == 2
    assert "cannot write" in err
    assert "No such file or directory" in err


# -- train


def test_train_prints_a_comparison_and_where_things_are(vader_command: Any, tmp_path: Path, run: Path) -> None:
    made = tiny(tmp_path / "run", validation={"clips": 2, "save_clips": 1, "rewards": [PROMPT_LENGTH]})
    file = write(tmp_path / "run.yaml", made)
    code, out, err = vader_command("train", file)
    assert (code, err) == (0, "")
    for said in ("loading", "optimizer step 6 of 6", "before", "after", "gain", "brightness", "report.html", "adapter"):
        assert said in out, out
    assert re.search(r"^verdict  \w+", out, re.MULTILINE)
    assert re.search(r"^cost     time in optimizer steps .*, clips scored in training 12, ", out, re.MULTILINE)
    assert "brightness" in (tmp_path / "run" / "report.html").read_text()
    assert_same_run(tmp_path / "run", run)
    code, _, err = vader_command("train", file)
    assert code == 2
    assert err.count("\n") == 1
    assert "already holds a run. Resume it with --resume" in err
    code, out, _ = vader_command("train", file, "--resume")
    assert code == 0
    assert "resuming after optimizer step 6" in out


def test_training_goes_on_in_the_folder_of_a_run(vader_command: Any, tmp_path: Path, run: Path) -> None:
    folder = Path(shutil.copytree(run, tmp_path / "it's moved"))
    code, _, err = vader_command("train", folder)
    assert (code, err.count("\n")) == (2, 1)
    assert "is the folder of a run. Go on with it by --resume" in err
    code, out, err = vader_command("train", folder, "--resume", "--set", "train.steps=7")
    assert code == 0, err
    assert "resuming after optimizer step 6" in out
    assert [len(records(one)) for one in (folder, run)] == [7, 6], "the copy went on, not the run that it is of"
    code, _, err = vader_command("train", tmp_path, "--resume")
    assert code == 2
    assert "is not the folder of a run" in err


@pytest.mark.parametrize("arguments", [("generate", "-p", "a"), ("evaluate",), ("train", "--resume")])
def test_a_mistyped_folder(vader_command: Any, run: Path, arguments: tuple[str, ...]) -> None:
    code, _, err = vader_command(*arguments, run.with_name("rnu"))
    assert (code, err.count("\n")) == (2, 1)
    assert "expected the folder of a run, or the YAML file of a spec." in err
    assert f"Did you mean {str(run)!r}?" in err
    code, _, err = vader_command(*arguments, run.parent / "nowhere" / "run")
    assert code == 2
    assert f"There is no folder {str(run.parent / 'nowhere')!r} either." in err


def test_shell_completion(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("_VADER_COMPLETE", "complete_bash"), ("COMP_WORDS", "vader ev"), ("COMP_CWORD", "1")):
        monkeypatch.setenv(name, value)
    assert python(["-m", "vader"]).stdout.split() == ["evaluate"]


@pytest.mark.parametrize("width", [40, 60, 80, 120])
def test_progress_keeps_step_count_and_time_left(width: int) -> None:
    screen = Console(file=io.StringIO(), force_terminal=True, color_system=None, width=width)
    listener = ProgressListener(screen)
    run: Any = SimpleNamespace(
        spec=SimpleNamespace(train=SimpleNamespace(steps=12000)), folder=Path("x"), processes=1, start_step=0
    )
    listener.vader_run_started(run=run)
    listener.vader_step_finished(run=run, step=1234, metrics={"reward": -0.63214, "time/step": 123.4})
    listener.close()
    written = re.sub(r"\x1b\[[^A-Za-z]*[A-Za-z]", "", screen.file.getvalue())  # type: ignore[attr-defined]
    line = written.rstrip().splitlines()[-1]
    assert "1234/12000" in line
    assert line.rstrip().endswith("left -:--:--")
    assert ("reward -0.6321" in line, "s a step" in line) == (width >= 60, width >= 80)


def test_set_overrides_and_spec_yaml_reruns(vader_command: Any, tmp_path: Path, run: Path) -> None:
    """The resolved spec in a run's folder is a spec: it gives the same run again."""
    spec = run / "spec.yaml"
    code, _, err = vader_command("train", spec, "--set", f"output={tmp_path / 'again'}", "--set", "train.steps=6")
    assert code == 0, err
    assert_same_run(tmp_path / "again", run)
    code, _, _ = vader_command("train", spec, "--set", f"output={tmp_path / 'short'}", "--set", "train.steps=3")
    assert code == 0
    assert len(records(tmp_path / "short")) == 3


def test_ctrl_c(tmp_path: Path) -> None:
    """A process of its own: it saves, says how to go on, and its exit code names the signal."""
    number = signal.SIGINT
    made = tiny(tmp_path / "run", train={"steps": 500, "checkpoint_every": 500})
    made["rewards"] = [{"name": f"{HERE}:Slow", "options": {"seconds": 0.05}}]
    file = write(tmp_path / "run.yaml", made)
    with subprocess.Popen(
        [sys.executable, "-m", "vader", "train", str(file), "--trust-code"],
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        deadline = time.monotonic() + 60
        while not (tmp_path / "run" / "metrics.jsonl").exists() and time.monotonic() < deadline:
            time.sleep(0.05)
        process.send_signal(number)
        out, err = process.communicate(timeout=60)
    assert process.returncode == 128 + number, err
    step = len(records(tmp_path / "run"))
    assert f"stopped by {number.name} after optimizer step {step}; saved. Go on with --resume" in out
    assert [path.name for path in (tmp_path / "run" / "checkpoints").iterdir()] == [f"step-{step:06d}"]
    assert err == ""


def test_a_path_with_a_space_and_a_number_that_yaml_takes_for_text(vader_command: Any, tmp_path: Path) -> None:
    """YAML 1.1 reads 1e-3 as text."""
    made = tiny(tmp_path / "run")
    text = yaml.safe_dump(made).replace("learning_rate: 0.01", "learning_rate: 1e-3")
    (tmp_path / "a run.yaml").write_text(text)
    code, _, err = vader_command("train", tmp_path / "a run.yaml", "--dry-run")
    assert code == 0, err
    assert vader.check(tmp_path / "a run.yaml", trust_code=True).train.learning_rate == 1e-3


# -- generate, evaluate, report


def test_generate(vader_command: Any, tmp_path: Path, run: Path) -> None:
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("# mine\na green triangle\n")
    code, out, err = vader_command(
        "generate", run, "-p", "a red circle", "--prompts-file", prompts, "--seed", 3, "--seed", 4,
        "-o", tmp_path / "clips", "--file-type", "png", "--grid", "--batch-size", 3,
    )  # fmt: skip
    assert code == 0, err
    lines = out.splitlines()
    assert len(lines) == 4
    assert lines[1].split("  ")[1:] == ["seed 4", "a red circle"]
    assert lines[2].endswith("seed 3  a green triangle")
    assert len(list((tmp_path / "clips").iterdir())) == 5
    assert "clip 3 of 4" in err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "no prompt. Give --prompt TEXT"),
        (["-p", "a", "--file-type", "avi"], "expected mp4, gif or png; found 'avi'"),
        (["--prompts-file", "/nowhere.txt"], "cannot read the prompt file"),
        (["-p", "a", "--adapter", "/nowhere"], "no adapter at '/nowhere'"),
        (["-p", "a", "--set", "sampler.stesp=3"], "Did you mean 'steps'?"),
    ],
)
def test_generate_refuses(vader_command: Any, run: Path, arguments: list[str], said: str) -> None:
    code, _, err = vader_command("generate", run, *arguments)
    assert code == 2
    assert said in err
    assert "Traceback" not in err


def test_generate_from_a_folder_that_is_no_run(vader_command: Any, tmp_path: Path) -> None:
    code, _, err = vader_command("generate", tmp_path, "-p", "a")
    assert code == 2
    assert "spec.yaml" in err


def test_evaluate(vader_command: Any, tmp_path: Path, run: Path) -> None:
    code, out, err = vader_command("evaluate", run, "-o", tmp_path / "clips")
    assert code == 0, err
    for said in ("brightness", "before", "after", "gain", "2 clips"):
        assert said in out
    assert {path.name for path in (tmp_path / "clips").iterdir()} == {"base", "adapted"}


def test_report(vader_command: Any, tmp_path: Path, run: Path) -> None:
    folder = Path(shutil.copytree(run, tmp_path / "run"))
    (folder / "report.html").unlink()
    code, out, _ = vader_command("report", folder)
    assert (code, out.strip()) == (0, str(folder / "report.html"))
    assert "brightness" in (folder / "report.html").read_text()
    code, _, err = vader_command("report", tmp_path)
    assert code == 2
    assert "is not a run folder" in err


# -- listeners of third parties

LISTENERS = {
    "raises": "import vader\n@vader.hookimpl\ndef vader_step_finished(run, step):\n    raise ValueError('listener')\n",
    "fails to load": "raise SystemExit('at import')\n",
    "unknown hook": "import vader\n@vader.hookimpl\ndef vader_stepp_finished(run):\n    pass\n",
    "unknown argument": "import vader\n@vader.hookimpl\ndef vader_step_finished(colour):\n    pass\n",
}


@pytest.mark.parametrize("name", LISTENERS)
def test_a_listener_plugin_that_is_broken_is_left_out(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site, module = tmp_path / "site", f"vader_listener_{abs(hash(name))}"
    info = site / "vader_listener-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: vader-listener\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[vader.plugins]\nbroken = {module}\nsound = {module}_sound\n")
    (site / f"{module}.py").write_text(LISTENERS[name])
    (site / f"{module}_sound.py").write_text(
        "import vader\nseen = []\n@vader.hookimpl\ndef vader_step_finished(step):\n    seen.append(step)\n"
    )
    monkeypatch.syspath_prepend(str(site))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        result = vader.train(tiny(tmp_path / "run", train={"steps": 3, "warmup_steps": 0}))
    assert result.step == 3
    said = [str(warning.message) for warning in caught if "listener" in str(warning.message)]
    assert len(said) == 1, "once, not at every event"
    assert "broken of vader-listener" in said[0]
    assert "left out" in said[0]
    assert sys.modules[f"{module}_sound"].seen == [1, 2, 3], "its neighbour goes on"


def test_an_unpackaged_component_beside_the_spec(
    vader_command: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An unpackaged component is looked for from the working folder."""
    (tmp_path / "mine.py").write_text("from tests.fakes import FakeBackbone as Mine\n")
    made = tiny(tmp_path / "run", backbone={"name": "./mine.py:Mine"})
    file = write(tmp_path / "run.yaml", made)
    monkeypatch.chdir(tmp_path)
    assert vader_command("train", file, "--dry-run")[0] == 0
    monkeypatch.chdir("/")
    code, _, err = vader_command("train", file, "--dry-run")
    assert code == 2
    assert "looked for from /" in err
