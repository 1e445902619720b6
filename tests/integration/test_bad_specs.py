"""Mistakes in a spec: each gives one message with path, value, expectation and fix, before any weight is loaded."""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.integration.harness import BACKBONE, BRIGHTNESS, FAKES, PROMPT_LENGTH, command, merged, tiny

import vader
from vader.cli import app as cli
from vader.plugins import registry
from vader.resolve import build

Change = Callable[[dict[str, Any], Path], object]

COMPONENTS = '''
import vader
from tests.fakes import Brightness, FakeBackbone
from vader.diffusion.samplers.ddim import DDIM

class Pair(Brightness):
    frames = 2

class NoCheckpointing(FakeBackbone):
    gradient_checkpointing = False

class Flow(FakeBackbone):
    predictions = ("flow",)

class Still(DDIM):
    stochastic = False

class Raises:
    class Options(vader.Options):
        """Options."""
    def __init__(self, options):
        raise ValueError("nothing to draw from")
    def draw(self, n, rng):
        """Never called."""

class Unchecked:
    Options = dict
    def score(self, frames, prompts):
        """Never called."""
'''


@dataclass(frozen=True)
class Case:
    """A mistake: what is done to a sound spec, where the message points, and what it must say."""

    change: Change
    path: str
    says: Sequence[str]
    arguments: Sequence[str] = field(default=())


def put(path: str, value: Any) -> Change:
    """Set a field."""

    def change(spec: dict[str, Any], folder: Path) -> None:
        *parents, last = path.split(".")
        here: Any = spec
        for key in parents:
            here = here[int(key)] if isinstance(here, list) else here.setdefault(key, {})
        here[int(last) if isinstance(here, list) else last] = value

    return change


def drop(key: str) -> Change:
    """Remove a section."""
    return lambda spec, folder: spec.pop(key)


def all_of(*changes: Change) -> Change:
    """One mistake that takes several fields."""

    def change(spec: dict[str, Any], folder: Path) -> None:
        for one in changes:
            one(spec, folder)

    return change


def with_file(name: str, text: str, change: Callable[[Path], Change]) -> Change:
    """A file beside the spec."""

    def make(spec: dict[str, Any], folder: Path) -> None:
        (folder / name).write_text(text)
        change(folder / name)(spec, folder)

    return make


def component(name: str, path: str) -> Change:
    """A component of :data:`COMPONENTS`."""
    return with_file("components.py", COMPONENTS, lambda file: put(path, f"{file}:{name}"))


def prompts(options: dict[str, Any], name: str = "file") -> Change:
    return put("prompts", {"name": name, "options": options})


CASES = {
    # names
    "unknown backbone": Case(
        put("backbone.name", "wam"), "backbone.name", ["'wam'", "Did you mean 'wan'", "Installed"]
    ),
    "unknown reward": Case(
        put("rewards.0.name", "shapes_alignmant"), "rewards.0.name", ["'shapes_alignmant'", "'shapes_alignment'"]
    ),
    "unknown sampler": Case(
        put("sampler.name", "dimm"), "sampler.name", ["'dimm'", "Did you mean 'ddim'?", "Installed"]
    ),
    "unknown prompt source": Case(
        put("prompts", {"name": "lsit"}), "prompts.name", ["'lsit'", "Did you mean 'list'?", "Installed"]
    ),
    "unknown method": Case(
        put("method", "reward_gradiant"), "method.name", ["'reward_gradiant'", "Did you mean 'reward_gradient'?"]
    ),
    "known, not installed": Case(
        put("backbone.name", "elsewhere"),
        "backbone.name",
        ["'elsewhere' is not installed", "pip install vader-plugin-elsewhere"],
    ),
    "nearly known, not installed": Case(
        put("backbone.name", "elsewere"),
        "backbone.name",
        ["Did you mean 'elsewhere' (`pip install vader-plugin-elsewhere`)?"],
    ),
    "held-out reward unknown": Case(
        put("validation.rewards", ["acuracy"]), "validation.rewards.0.name", ["'acuracy'", "Installed"]
    ),
    "file of unpackaged code missing": Case(
        put("rewards.0.name", "./nowhere.py:Reward"), "rewards.0.name", ["nowhere.py", "no file", "looked for from"]
    ),
    "attribute of a file missing": Case(
        put("rewards.0.name", f"{FAKES}:Brightnes"), "rewards.0.name", ["no 'Brightnes'", "Brightness", "fakes.py"]
    ),
    "file that fails to load": Case(
        with_file("broken.py", "1 / 0\n", lambda file: put("rewards.0.name", f"{file}:Reward")),
        "rewards.0.name",
        ["broken.py", "ZeroDivisionError"],
    ),
    "name empty": Case(put("backbone.name", ""), "backbone.name", ["found ''", "at least 1 character"]),
    # fields and options
    "misspelt section": Case(put("trian", {"steps": 3}), "trian", ["unknown field 'trian'", "Did you mean 'train'?"]),
    "misspelt field": Case(
        put("train.lerning_rate", 0.1),
        "train.lerning_rate",
        ["Did you mean 'learning_rate'?", "Known: ", "max_grad_norm"],
    ),
    "misspelt adapter field": Case(put("backbone.adapter.rnak", 4), "backbone.adapter.rnak", ["Did you mean 'rank'?"]),
    "misspelt option of a backbone": Case(
        put("backbone.options", {"predicton": "v"}), "backbone.options.predicton", ["Did you mean 'prediction'?"]
    ),
    "misspelt option of a reward": Case(
        put("rewards.0.options", {"levle": 0.5}), "rewards.0.options.levle", ["Did you mean 'level'?", "Known: level"]
    ),
    "option of what takes none": Case(
        put("validation.rewards", [{"name": PROMPT_LENGTH, "options": {"x": 1}}]),
        "validation.rewards.0.options.x",
        ["unknown field 'x'", "Remove it"],
    ),
    "option of a wrong kind": Case(
        put("backbone.options", {"prediction": "noise"}), "backbone.options.prediction", ["found 'noise'", "'epsilon'"]
    ),
    "wrong type": Case(put("train.steps", "many"), "train.steps", ["expected a valid integer", "found 'many'"]),
    "wrong type of a section": Case(put("train", 3), "train", ["found 3", "expected"]),
    "rewards not a list": Case(put("rewards", BRIGHTNESS), "rewards", ["expected a", "found "]),
    "unknown mode": Case(
        put("gradient.mode", "first"),
        "gradient.mode",
        ["'last', 'rand', 'specific', 'tail', 'uniform' or 'subset'", "'first'"],
    ),
    "negative learning rate": Case(
        put("train.learning_rate", -1e-3), "train.learning_rate", ["greater than 0", "found -0.001"]
    ),
    "learning rate as YAML's text": Case(
        put("train.learning_rate", "3e-q"), "train.learning_rate", ["expected a valid number", "found '3e-q'"]
    ),
    "learning rate infinite": Case(
        put("train.learning_rate", float("inf")), "train.learning_rate", ["finite number", "found inf"]
    ),
    "no steps": Case(put("train.steps", 0), "train.steps", ["greater than or equal to 1", "found 0"]),
    "rank 0": Case(put("backbone.adapter.rank", 0), "backbone.adapter.rank", ["greater than or equal to 1", "found 0"]),
    "eta above 1": Case(put("sampler.eta", 1.5), "sampler.eta", ["less than or equal to 1", "found 1.5"]),
    # what is missing
    "no backbone": Case(drop("backbone"), "backbone", ["missing", "Add it", "text-to-video model"]),
    "no prompts": Case(drop("prompts"), "prompts", ["missing", "Add it", "Prompts to train on"]),
    "no rewards": Case(put("rewards", []), "rewards", ["no reward to train on", "Add at least one"]),
    "prompt list empty": Case(
        prompts({"prompts": []}, "list"), "prompts.options.prompts", ["at least 1 item", "found []"]
    ),
    "option required": Case(prompts({}), "prompts.options.path", ["missing", "Add it", "Text file"]),
    "prompt file missing": Case(
        prompts({"path": "/nowhere/prompts.txt"}),
        "prompts.options",
        ["cannot read the prompt file '/nowhere/prompts.txt'", "No such file", "one prompt a line"],
    ),
    "prompt file empty": Case(
        with_file("prompts.txt", "# only a comment\n\n", lambda file: prompts({"path": str(file)})),
        "prompts.options",
        ["prompts.txt' holds no prompt", "Add at least one line"],
    ),
    "prompt file binary": Case(
        with_file("prompts.txt", "", lambda file: (file.write_bytes(b"\xff\xfe\x00"), prompts({"path": str(file)}))[1]),
        "prompts.options",
        ["cannot read the prompt file", "UTF-8"],
    ),
    "prompt file a folder": Case(prompts({"path": "/tmp"}), "prompts.options", ["'/tmp'", "directory"]),
    "validation prompt file missing": Case(
        put("validation.prompts", {"name": "file", "options": {"path": "/nowhere.txt"}}),
        "validation.prompts.options",
        ["cannot read the prompt file '/nowhere.txt'"],
    ),
    # what cannot be
    "weights all 0": Case(put("rewards.0.weight", 0), "rewards", ["every weight is 0", "above 0"]),
    "k more than steps": Case(
        put("gradient", {"mode": "tail", "k": 9}), "gradient.k", ["k = 9", "sampler.steps = 3", "Expected 1 to 3"]
    ),
    "k missing": Case(put("gradient", {"mode": "tail"}), "gradient.k", ["mode tail needs k", "Add k"]),
    "k for another mode": Case(
        put("gradient", {"mode": "last", "k": 1}), "gradient.k", ["k = 1", "mode last", "remove k"]
    ),
    "from_step missing": Case(
        put("gradient", {"mode": "specific"}), "gradient.from_step", ["needs from_step", "expected 0 to 2"]
    ),
    "from_step past the end": Case(
        put("gradient", {"mode": "specific", "from_step": 3}), "gradient.from_step", ["3 is past", "Expected 0 to 2"]
    ),
    "from_step for another mode": Case(
        put("gradient", {"mode": "rand", "from_step": 1}), "gradient.from_step", ["mode rand", "remove it"]
    ),
    "frame past the end": Case(
        put("frames", {"mode": "index", "index": 3}), "frames.index", ["3 is past the last frame", "Expected 0 to 2"]
    ),
    "frame missing": Case(put("frames", {"mode": "index"}), "frames.index", ["mode index needs index"]),
    "frame for another mode": Case(
        put("frames", {"mode": "all", "index": 1}), "frames.index", ["mode all", "remove it"]
    ),
    "adapter to start from missing": Case(
        put("backbone.adapter.init", "/nowhere/adapter"),
        "backbone.adapter.init",
        ["no adapter at '/nowhere/adapter'", "Expected a folder"],
    ),
    "warm-up longer than the run": Case(
        put("train.warmup_steps", 9), "train.warmup_steps", ["9 is not less than train.steps = 6"]
    ),
    "frames too few for a reward": Case(
        all_of(put("frames", {"mode": "random"}), component("Pair", "rewards.0.name")),
        "rewards.0.name",
        ["needs 2 frames", "frames.mode random gives 1", "Use mode: all"],
    ),
    "clip of an impossible size": Case(
        put("video.height", 5), "video", ["height 5 is no multiple of 2", "nearest is 4"]
    ),
    "labels twice": Case(
        lambda spec, folder: spec["rewards"].append(dict(spec["rewards"][0])),
        "rewards.1.label",
        ["'brightness' already names rewards.0", "Give one of them a label"],
    ),
    "reward without gradient": Case(
        put("rewards.0", {"name": PROMPT_LENGTH}),
        "rewards.0.name",
        ["is not differentiable", "'reward_gradient' needs its gradient", "validation.rewards"],
    ),
    "eta without noise": Case(
        all_of(component("Still", "sampler.name"), put("sampler.eta", 0.5)),
        "sampler.eta",
        ["adds no noise", "expected eta 0", "found 0.5"],
    ),
    "sampler of another kind": Case(
        all_of(component("Flow", "backbone.name"), put("sampler.name", "ddim")),
        "sampler.name",
        ["'ddim' integrates", "predicts flow", "leave sampler.name out"],
    ),
    "gradient checkpointing unsupported": Case(
        all_of(component("NoCheckpointing", "backbone.name"), put("train.gradient_checkpointing", True)),
        "train.gradient_checkpointing",
        ["has none", "set it to false"],
    ),
    "prompt source that refuses": Case(component("Raises", "prompts"), "prompts.options", ["nothing to draw from"]),
    "options that are not vader's": Case(
        component("Unchecked", "rewards.0.name"), "rewards.0.name", ["not a vader.Options", "author"]
    ),
    # overrides
    "override without =": Case(drop("video"), "train.steps", ["path=value", "for example"], ["--set", "train.steps"]),
    "override of a field that is not there": Case(
        drop("video"), "train.stpes", ["Did you mean 'steps'?"], ["--set", "train.stpes=3"]
    ),
    "override that is not YAML": Case(
        drop("video"), "train.steps", ["'[3'", "not valid YAML", "quote it"], ["--set", "train.steps=[3"]
    ),
    "override past a list": Case(
        drop("video"), "rewards.7.weight", ["rewards is a list", "0 to 0", "'7'"], ["--set", "rewards.7.weight=1"]
    ),
    "override through a number": Case(
        drop("video"), "train.steps.many", ["train.steps is 6", "'many'"], ["--set", "train.steps.many=1"]
    ),
}

# Known only when the run itself begins: a dry run may be made on another machine.
MACHINE = {
    "folder below a file": Case(
        with_file("file", "", lambda file: put("output", str(file / "run"))),
        "output",
        ["cannot write", "Choose a writable"],
    ),
    "cuda where there is none": Case(
        put("train.device", "cuda"), "train.device", ["'cuda' is not available", "Use auto"]
    ),
    "fp16 on the CPU": Case(
        put("train.mixed_precision", "fp16"), "train.mixed_precision", ["needs a GPU", "Use bf16 or no"]
    ),
    "tracker not installed": Case(
        put("trackers", ["trackio"]), "trackers.0", ["'trackio' is not installed", "pip install ", "[trackio]"]
    ),
}


@pytest.fixture(autouse=True)
def unloaded(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The kinds of weights that were loaded; a backbone is never constructed here."""
    loaded: list[str] = []

    def note(plan: Any, *rest: Any) -> Any:
        loaded.append(plan.spec.backbone.name)
        return original(plan, *rest)

    original = build.assemble_backbone
    monkeypatch.setitem(registry.NOT_INSTALLED["backbone"], "elsewhere", "vader-plugin-elsewhere")
    monkeypatch.setattr(build, "assemble_backbone", note)
    backbone = registry.load("backbone", BACKBONE)
    monkeypatch.setattr(backbone, "__init__", lambda *_: pytest.fail("weights were loaded"))
    return loaded


def write(tmp_path: Path, case: Case) -> Path:
    spec = tiny(tmp_path / "run")
    case.change(spec, tmp_path)
    file = tmp_path / "run.yaml"
    file.write_text(yaml.safe_dump(spec, sort_keys=False))
    return file


@pytest.mark.parametrize("name", CASES)
def test_a_mistake_is_one_message(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], unloaded: list[str]
) -> None:
    case = CASES[name]
    file = write(tmp_path, case)
    monkeypatch.chdir(tmp_path)
    code, out, err = command(monkeypatch, capsys, "train", str(file), "--dry-run", *case.arguments)
    assert code == 2, out + err
    assert out == ""
    head, *lines = err.rstrip("\n").split("\n")
    assert head == f"error: 1 problem in {file}", err
    assert len(lines) == 1, "one mistake, one line"
    assert lines[0].startswith((f"  {case.path}: ", f"  {case.path} (line ")), lines[0]
    for said in case.says:
        assert said in lines[0], f"{said!r} is not in {lines[0]!r}"
    assert "Traceback" not in err
    with pytest.raises(vader.SpecError) as error:
        vader.check(file, case.arguments[1::2], trust_code=True)
    assert [problem.path for problem in error.value.problems] == [case.path]
    assert err == f"error: {error.value}\n"
    if not case.arguments:
        with pytest.raises(vader.SpecError) as error:
            vader.train(yaml.safe_load(file.read_text()))
        assert [problem.path for problem in error.value.problems] == [case.path], "the same from a mapping"
    assert unloaded == []
    assert not (tmp_path / "run").exists(), "a run that is refused leaves no folder"


@pytest.mark.parametrize("name", MACHINE)
def test_what_this_machine_cannot_do_is_one_message(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], unloaded: list[str]
) -> None:
    case = MACHINE[name]
    file = write(tmp_path, case)
    code, _, err = command(monkeypatch, capsys, "train", str(file))
    assert code == 2, err
    assert err.startswith("error: ")
    assert len(err.rstrip("\n").split("\n")) <= 2, err
    for said in (case.path, *case.says):
        assert said in err
    assert "Traceback" not in err
    assert unloaded == []


def test_the_spec_itself_is_sound(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], unloaded: list[str]
) -> None:
    """What every case above changes passes as it is, and a dry run loads and writes nothing."""
    file = write(tmp_path, Case(lambda spec, folder: None, "", ()))
    assert command(monkeypatch, capsys, "train", str(file), "--dry-run") == (0, f"{file} is sound.\n", "")
    assert unloaded == []
    assert sorted(path.name for path in tmp_path.iterdir()) == ["run.yaml"]


def test_there_are_enough() -> None:
    assert len(CASES) + len(MACHINE) >= 40


# -- files that are no spec

FILES = {
    "missing": (None, "cannot read the spec file: No such file or directory.*vader init"),
    "a folder": ("/", "is not the folder of a run: it has no spec.yaml"),
    "not YAML": ("train: [1, 2\nrewards: {", r"not valid YAML"),
    "tabs": ("train:\n\tsteps: 3\n", r"\(line 2\).*not valid YAML"),
    "a list": ("- a\n- b\n", "expected a mapping.*found list"),
    "a text": ("hello\n", "expected a mapping.*found str"),
    "a key twice": ("train:\n  steps: 3\n  steps: 4\n", r"train\.steps \(line 3\): the key stands twice; remove one"),
    "empty": ("", r"backbone: missing"),
    "not UTF-8": (b"\xff\xfe\x00t", "cannot read the spec file"),
    "a Python object": ("train: !!python/object/apply:os.getcwd []\n", "not valid YAML"),
    "a loop": ("train: &a\n  steps: *a\n", r"alias|train\.steps"),
}


@pytest.mark.parametrize("name", FILES)
def test_a_file_that_is_no_spec(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    content, said = FILES[name]
    file = tmp_path / "run.yaml"
    if content == "/":
        file.mkdir()
    elif isinstance(content, bytes):
        file.write_bytes(content)
    elif content is not None:
        file.write_text(content)
    code, _, err = command(monkeypatch, capsys, "train", str(file), "--dry-run")
    assert code == 2, err
    assert str(file) in err
    assert re.search(said, err, re.DOTALL), err
    assert "Traceback" not in err


def test_every_mistake_at_once_with_its_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], unloaded: list[str]
) -> None:
    file = tmp_path / "run.yaml"
    file.write_text(
        f"""\
# two lines
# of comment
backbone:
  name: {BACKBONE}
  options: {{predicton: v}}
  adapter:
    rank: none
prompts:
  name: file
  options:
    path: /nowhere.txt
rewards:
  - name: brihgtness
  - name: {BRIGHTNESS}
    options:
      levle: 0.5
gradient: {{mode: tail, k: 99}}
train:
  steps: 3
  lerning_rate: 0.1
colour: red
"""
    )
    code, _, err = command(monkeypatch, capsys, "train", str(file), "--dry-run")
    assert code == 2
    lines = [line.strip().split(": ")[0] for line in err.splitlines()[1:]]
    assert set(lines) >= {
        "backbone.options.predicton (line 5)",
        "backbone.adapter.rank (line 7)",
        "rewards.0.name (line 13)",
        "rewards.1.options.levle (line 16)",
        "train.lerning_rate (line 20)",
        "colour (line 21)",
    }, err
    assert err.startswith(f"error: {len(lines)} problems in {file}")
    assert unloaded == []


def test_form_and_meaning_at_once(tmp_path: Path) -> None:
    """Mistakes that only components can judge come together with each other, and with impossible states."""
    spec = merged(
        tiny(tmp_path / "run"),
        {
            "gradient": {"mode": "tail", "k": 99},
            "frames": {"mode": "index", "index": 50},
            "prompts": {"name": "file", "options": {"path": "/nowhere.txt", "prompts": None}},
            "train": {"warmup_steps": 50},
        },
    )
    spec["prompts"]["options"] = {"path": "/nowhere.txt"}
    spec["rewards"] = [PROMPT_LENGTH]
    with pytest.raises(vader.SpecError) as error:
        vader.check(spec)
    paths = {problem.path for problem in error.value.problems}
    assert paths == {"gradient.k", "frames.index", "prompts.options", "train.warmup_steps", "rewards.0.name"}
    assert all(problem.line is None for problem in error.value.problems)


# -- plugins that are wrong


def distribution(folder: Path, name: str, module: str, code: str, entries: dict[str, str]) -> None:
    """An installed distribution, as ``importlib.metadata`` sees it."""
    info = folder / f"{name.replace('-', '_')}-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    text = "".join(f"[{group}]\n{entry}\n" for group, entry in entries.items())
    (info / "entry_points.txt").write_text(text)
    (folder / f"{module}.py").write_text(code)


GOOD = "from tests.fakes import Brightness as Reward\n"


@pytest.fixture
def plugins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "site"
    folder.mkdir()
    monkeypatch.syspath_prepend(str(folder))
    return folder


@pytest.mark.parametrize(
    ("code", "said"),
    [
        (
            "import nowhere_to_be_found\n",
            ["ModuleNotFoundError", "nowhere_to_be_found", "pip install --upgrade vader-bad"],
        ),
        ("raise SystemExit(3)\n", ["SystemExit: 3", "pip install --force-reinstall vader-bad", "uninstall"]),
        ("raise ImportError('libfoo.so')\n", ["ImportError: libfoo.so", "Reinstall"]),
        ("Reward = 3\n", ["is 3", "expected a class or a function"]),
        ("def f(:\n", ["SyntaxError", "Reinstall"]),
        ("", ["AttributeError", "Reward"]),
    ],
    ids=["missing module", "exits", "import error", "no component", "syntax error", "no attribute"],
)
def test_a_broken_plugin_is_named_and_spoils_no_other(
    plugins: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    code: str,
    said: list[str],
) -> None:
    module = f"vader_bad_{abs(hash(code))}"
    distribution(plugins, "vader-bad", module, code, {"vader.rewards": f"bad = {module}:Reward"})
    distribution(plugins, "vader-good", "vader_good_plugin", GOOD, {"vader.rewards": "good = vader_good_plugin:Reward"})
    file = write(tmp_path, Case(put("rewards.0.name", "bad"), "", ()))
    status, _, err = command(monkeypatch, capsys, "train", str(file), "--dry-run")
    assert status == 2
    for text in ("rewards.0.name", "'bad'", "vader-bad 1.0", f"{module}:Reward", *said):
        assert text in err, err
    assert "Traceback" not in err
    file = write(tmp_path, Case(put("rewards.0.name", "good"), "", ()))
    assert command(monkeypatch, capsys, "train", str(file), "--dry-run")[0] == 0
    assert command(monkeypatch, capsys, "plugins")[0] == 0


def test_a_name_that_two_distributions_claim(
    plugins: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for letter in "ab":
        module = f"vader_twin_{letter}"
        distribution(plugins, f"vader-twin-{letter}", module, GOOD, {"vader.rewards": f"twin = {module}:Reward"})
    file = write(tmp_path, Case(put("rewards.0.name", "twin"), "", ()))
    code, _, err = command(monkeypatch, capsys, "train", str(file), "--dry-run")
    assert code == 2
    for said in ("rewards.0.name", "'twin'", "vader-twin-a 1.0", "vader-twin-b 1.0", "both are refused", "Uninstall"):
        assert said in err
    code, out, _ = command(monkeypatch, capsys, "plugins", "--json")
    rows = {row["distribution"]: row["status"] for row in json.loads(out) if row["name"] == "twin"}
    assert code == 0
    assert rows.keys() == {"vader-twin-a", "vader-twin-b"}
    assert all("clash" in status for status in rows.values()), rows


def test_debug_shows_where_it_comes_from(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["vader", "train", str(tmp_path / "no.yaml"), "--debug"])
    with pytest.raises(vader.SpecError):
        cli.main()


def test_no_network_is_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The offline switches of conftest are on, so that no case above has passed for want of a network."""
    assert os.environ["HF_HUB_OFFLINE"] == "1"
