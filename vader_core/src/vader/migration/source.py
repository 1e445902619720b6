"""What a file of another trainer says: a launch script, a command line, a configuration. Nothing of it is run."""

from __future__ import annotations

import ast
import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vader.errors import PathError, Problem, SpecError, cut
from vader.migration import modelscope, opensora, videocrafter, videox_fun
from vader.migration.keys import Settings, Trainer
from vader.paths import read_limited, user_path
from vader.spec.yaml_text import NotYamlError, load

TRAINERS = (
    videocrafter.TRAINER,
    opensora.TRAINER,
    modelscope.TRAINER,
    videox_fun.WAN,
    videox_fun.WAN22,
    videox_fun.COGVIDEOX,
)
"""Of scripts whose paths end alike the longer comes first."""

LAUNCHER = {"num_processes": "train.processes", "mixed_precision": "train.mixed_precision"}
"""Flags of ``accelerate launch`` that a spec has too."""

_BYTES = 2**20


@dataclass(frozen=True)
class Source:
    """A file as read.

    Args:
        trainer: whose it is.
        said: settings by name, as text or as values of Python and YAML.
        launcher: what the launcher was told.
        notes: what could not be read.
    """

    trainer: Trainer
    said: Mapping[str, Any]
    launcher: Mapping[str, str]
    folder: Path
    notes: tuple[str, ...] = ()


def read(path: str | Path) -> Source:
    """Read a launch script, or a configuration of the reference in YAML or Python.

    Raises:
        SpecError: it cannot be read, or is of no trainer that is known.
    """
    name = cut(str(path), plain=True)
    try:
        file = user_path(path)
        text = read_limited(file, _BYTES)
    except (PathError, OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or str(error).rstrip(".")
        raise SpecError([Problem(name, f"cannot read the file: {reason}.")], "the command") from error
    if file.suffix == ".py":
        return Source(opensora.TRAINER, python_config(text, name), {}, file.parent)
    if file.suffix in (".yaml", ".yml"):
        return Source(modelscope.TRAINER, yaml_config(text, name), {}, file.parent)
    return _script(text, name, file.parent)


def python_config(text: str, name: str) -> dict[str, Any]:
    """The assignments of literals in a Python configuration, flat: ``scheduler.cfg_scale``.

    Raises:
        SpecError: it is no Python, or no configuration of the trainer.
    """
    try:
        tree = ast.parse(text)
    except (SyntaxError, ValueError) as error:
        raise SpecError([Problem(name, f"not valid Python: {error}.")], "the command") from error
    said = dict(_assigned(tree))
    if not {"reward_fn", "is_vader_training", "lora_rank"} & said.keys():
        known = "a configuration of VADER-Open-Sora, such as configs/opensora-v1-2/vader/vader_train.py"
        raise SpecError([Problem(name, f"sets none of the trainer's keys. Expected {known}.")], "the command")
    return said


def _assigned(tree: ast.Module) -> Iterator[tuple[str, Any]]:
    for node in tree.body:
        if not isinstance(node, ast.Assign) or not isinstance(node.targets[0], ast.Name):
            continue
        target, value = node.targets[0].id, node.value
        if isinstance(value, ast.Call):
            found = [(f"{target}.{word.arg}", word.value) for word in value.keywords if word.arg]
        else:
            found = [(target, value)]
        for key, literal in found:
            try:
                yield key, ast.literal_eval(literal)
            except ValueError:
                continue


def yaml_config(text: str, name: str) -> dict[str, Any]:
    """A configuration in YAML, flat: ``validation_data.width``.

    Raises:
        SpecError: it is no YAML, or no configuration of the trainer.
    """
    try:
        data = load(text)
    except NotYamlError as error:
        raise SpecError([Problem(name, f"not valid YAML: {error}.")], "the command") from error
    if not isinstance(data, dict) or "pretrained_model_path" not in data:
        known = "the configuration of VADER-ModelScope, config_t2v/config.yaml, or a launch script (.sh)"
        raise SpecError([Problem(name, f"has no pretrained_model_path. Expected {known}.")], "the command")
    return dict(_flat(data, ""))


def _flat(data: Mapping[str, Any], path: str) -> Iterator[tuple[str, Any]]:
    for key, value in data.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{path}{key}.")
        else:
            yield f"{path}{key}", value


def _script(text: str, name: str, folder: Path) -> Source:
    """The one command of a shell script that starts a trainer."""
    for words in _commands(text):
        for place, word in enumerate(words):
            trainer = next((one for one in TRAINERS if word.endswith(one.scripts)), None)
            if trainer is not None:
                launcher = dict(_flags(words[:place], frozenset({"multi_gpu", "use_deepspeed", "use_fsdp"}))[0])
                launcher = {key.replace("-", "_"): value for key, value in launcher.items()}
                return _of_trainer(trainer, words[place + 1 :], launcher, folder)
    scripts = ", ".join(script for one in TRAINERS for script in one.scripts)
    message = f"no command in it starts a trainer that is known: {scripts}."
    raise SpecError([Problem(name, message)], "the command")


_SET = re.compile(r"(?:export\s+)?([A-Za-z_]\w*)=(.*)")


def _commands(text: str) -> Iterator[list[str]]:
    """The commands of a script as words, its variables filled in."""
    variables: dict[str, str] = {}
    for line in re.sub(r"\\\r?\n", " ", text).splitlines():
        try:
            words = shlex.split(line, comments=True)
        except ValueError:
            continue  # a line with quotes that go on: no command of a trainer's script
        if not words:
            continue
        assigned = _SET.fullmatch(" ".join(words[1:] if words[0] == "export" else words))
        if assigned and len(words) <= 2:
            variables[assigned[1]] = _filled(assigned[2], variables)
        else:
            yield [_filled(word, variables) for word in words]


def _filled(word: str, variables: Mapping[str, str]) -> str:
    return re.sub(r"\$\{?(\w+)\}?", lambda match: variables.get(match[1], match[0]), word)


def _of_trainer(trainer: Trainer, words: Sequence[str], launcher: Mapping[str, str], folder: Path) -> Source:
    if trainer.style == "overrides":
        said = {key: load(value) for key, equals, value in (word.partition("=") for word in words) if equals}
        file = next((path for path in (folder / "config_t2v/config.yaml",) if path.is_file()), None)
        if file is not None:
            said = yaml_config(read_limited(file, _BYTES), str(file)) | said
        return Source(trainer, said, launcher, folder)
    flags, rest = _flags(words, trainer.flags)
    said = {key.replace("-", "_"): value for key, value in flags}
    notes: tuple[str, ...] = ()
    if trainer.style == "config":
        config = Settings({}, folder=folder).find(rest[0]) if rest else ""
        if Path(config).is_file():
            said = python_config(read_limited(Path(config), _BYTES), config) | said
        else:
            notes = (f"{config or 'its configuration'}: not found, so the published settings are taken.",)
    return Source(trainer, said, launcher, folder, notes)


def _flags(words: Sequence[str], bare: frozenset[str]) -> tuple[list[tuple[str, Any]], list[str]]:
    """Flags with their values, and the words that are none.

    Args:
        bare: flags without a value.
    """
    found: list[tuple[str, Any]] = []
    rest: list[str] = []
    index = 0
    while index < len(words):
        name, equals, value = words[index].partition("=")
        index += 1
        if not name.startswith("--"):
            rest.append(words[index - 1])
            continue
        name = name.removeprefix("--")
        values = []
        while not equals and name not in bare and index < len(words) and not words[index].startswith("--"):
            values.append(words[index])
            index += 1
            if len(values) == 1 and name not in _SEVERAL:
                break
        found.append((name, value if equals else True if not values else values[0] if len(values) == 1 else values))
    return found, rest


_SEVERAL = frozenset({"prompt", "image-size", "reference-path", "mask-strategy", "backprop_step_list"})
"""Flags that take several words."""
