"""Bad inputs to the command line. ``test_bad_inputs.py`` starts it: ``-m tests.chaos.bad_inputs FOLDER SEED COUNT``.

Each is given to a forked child, of which words, exit code, seconds and every file that it touches are noted.
"""

from __future__ import annotations

import copy
import json
import os
import random
import resource
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
import yaml
from safetensors.torch import load_file, save_file
from tests.chaos.forks import ended, fork
from tests.integration.harness import ADAPTER_FILE, BRIGHTNESS, At, crash, tiny
from tests.mutations import damage, odd

import vader
from vader.cli import app
from vader.runs import evaluation, generation  # noqa: F401  (every child would import them again)

KINDS = ("spec", "override", "prompts", "adapter", "run")
MEMORY, SECONDS = 8 * 2**30, 30
"""Of address space more than is taken already, and of CPU: a child that wants more is refused it, or ended."""
TEXTS = [
    "", "0", "-1", "true", "~", "null", "x", "1e400", ".nan", "[", "{", "{a: 1}", "[[[", "&a [*a]", "!!int x",
    "a: b: c", "9" * 400, "\u2028", "²", "../..", "/proc/self/mem", "hub:a/b", "hub:", "./none.py:X", "~nobody/x",
    "é" * 300, "=", "[1, two, {three: 3}]", "0x_", "2026-02-30", "%s", "{0}", "$HOME", "`id`", "*", "?", "<<: *a",
    "\t", "'", '"', "[/b]",
]  # fmt: skip
SCRAPS = ["\t", "[", "]", "{", "}", ":", "- ", "&a ", "*a", "!!x ", "'", '"', "\n", "\r", "\u2028", "#", "%", "\\", ","]
ROWS: dict[str, Any] = {
    "json": [{"text": "a fox", "weight": 2, "image": "a.png"}, ["b"], "c"],
    "jsonl": [{"prompt": "a fox", "dimension": ["x"]}, {"prompt": "a boat", "weight": 0.5}],
    "yaml": [{"caption": "a fox", "class": "x"}, "a boat"],
    "csv": "text,weight,image\na fox,1,\na boat,2,b.png\n",
    "tsv": "prompt_en\tsource\na fox\tx\n",
    "txt": "[2] a fox\n# no\na boat\n",
}


def full(output: str) -> dict[str, Any]:
    """A sound spec with every section."""
    return tiny(
        output,
        backbone={"frozen_adapters": []},
        train={"steps": 3, "checkpoint_every": 1, "warmup_steps": 0, "validate_every": 2, "ema_decay": 0.9},
        validation={"clips": 1, "save_clips": 0, "rewards": [BRIGHTNESS]},
    )


# -- in a child


def command(arguments: list[str], folder: Path, said: Mapping[str, Path]) -> None:
    """``vader`` in this process, its words in files; a sound spec that asks for a large run is only checked."""
    os.chdir(folder)
    os.environ.update(HOME=str(folder / "home"), VADER_CACHE_HOME=str(folder / "cache"), TMPDIR=str(folder / "tmp"))
    tempfile.tempdir = None
    for number, name in ((1, "out"), (2, "err")):
        os.dup2(os.open(said[name], os.O_CREAT | os.O_WRONLY | os.O_TRUNC), number)
    touched = noting_writes()
    taken = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (taken + MEMORY, resource.RLIM_INFINITY))
    spent = sum(resource.getrusage(resource.RUSAGE_SELF)[:2])
    resource.setrlimit(resource.RLIMIT_CPU, (int(spent) + SECONDS, resource.RLIM_INFINITY))
    sys.argv = ["vader", *arguments]
    try:
        app.main()
    finally:
        said["touched"].write_text(json.dumps(sorted({path for path in touched if not inside(path, folder)})))


def inside(path: str, folder: Path) -> bool:
    """Whether a path is in the folder, or is no file of anybody's."""
    whole = os.path.realpath(path)
    return Path(whole).is_relative_to(folder) or whole.startswith(("/dev/", "pipe:"))


def noting_writes() -> list[str]:
    """What this process writes, makes, moves and removes from now on."""
    touched: list[str] = []

    def note(event: str, arguments: tuple[Any, ...]) -> None:
        if event == "open" and isinstance(arguments[0], str | bytes | os.PathLike):
            flags = arguments[2] if isinstance(arguments[2], int) else 0
            if flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC):
                touched.append(str(Path(os.fsdecode(arguments[0])).absolute()))
        elif event in ("os.mkdir", "os.remove", "os.rmdir", "os.rename", "os.link", "os.symlink", "os.truncate"):
            paths = arguments[:2] if event in ("os.rename", "os.link") else arguments[:1]
            touched.extend(str(Path(os.fsdecode(path)).absolute()) for path in paths if not isinstance(path, int))

    sys.addaudithook(note)
    return touched


# -- in the parent


def leaves(value: Any, path: str = "") -> Iterator[str]:
    """Dotted paths of a spec's fields."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        here = f"{path}.{key}".lstrip(".")
        yield here
        yield from leaves(inner, here)


def modest(value: Any) -> bool:
    """Whether no number in a value asks for a large run."""
    if isinstance(value, dict | list | tuple):
        return all(map(modest, value.values() if isinstance(value, dict) else value))
    return not isinstance(value, int | float) or isinstance(value, bool) or abs(value) <= 1300


def small(path: Path, overrides: list[str]) -> bool:
    """Whether what a spec asks for, if it is sound, is done soon."""
    try:
        found = vader.check(path, overrides).model_dump()
    except Exception:  # what the command says of it is what is wanted
        return True
    sizes = (found["train"]["steps"], found["train"]["batch_size"], found["sampler"]["steps"] or 1)
    clips = (found["validation"]["clips"], found["train"]["gradient_accumulation"], *found["video"].values())
    return modest(found) and max(sizes) < 9 and max(int(one or 1) for one in clips) < 65


class Case:
    """One bad input, in a folder of its own.

    Args:
        folder: of the case.
        sound: a folder with the runs ``whole`` and ``stopped``.
        rng: decides.
    """

    def __init__(self, folder: Path, sound: Path, rng: random.Random) -> None:
        for name in ("home", "cache", "tmp"):
            (folder / name).mkdir(parents=True)
        (folder / "mine.txt").write_text("mine")
        self._folder, self._sound, self._rng, self._data = folder, sound, rng, full("run")

    def play(self, kind: str) -> dict[str, Any]:
        """What came of it."""
        made: Callable[[], list[Any]] = getattr(self, f"_of_{kind}")
        arguments = [os.fsdecode(os.fsencode(str(one).encode("utf-8", "replace"))) for one in made()]
        before = contents(self._folder)
        said = {
            name: self._folder.with_name(f"{self._folder.name}.{name}") for name in ("out", "err", "touched", "raised")
        }
        pid = fork(lambda: command(arguments, self._folder, said), said["raised"])
        _, status, usage = os.wait4(pid, 0)
        held = {name: path.read_text(errors="replace") if path.exists() else "" for name, path in said.items()}
        after = contents(self._folder)
        return {
            "kind": kind,
            "arguments": [argument[:200] for argument in arguments],
            "code": os.waitstatus_to_exitcode(status),
            "seconds": usage.ru_utime + usage.ru_stime,
            "changed": sorted(name for name in before.keys() | after.keys() if before.get(name) != after.get(name)),
            "touched": json.loads(held.pop("touched") or "[]"),
            **held,
            "folder": str(self._folder),
        }

    # -- kinds

    def _of_spec(self) -> list[Any]:
        rng, data = self._rng, copy.deepcopy(self._data)
        for _ in range(rng.randint(0, 2)):
            data = odd(data, rng)
        text = str(yaml.safe_dump(data)) if rng.random() < 0.7 else json.dumps(data)
        if rng.random() < 0.4 or data == self._data:
            for _ in range(rng.randint(1, 3)):
                place = rng.randrange(len(text) + 1)
                end = place + (rng.randrange(30) if rng.random() < 0.5 else 0)
                text = text[:place] + rng.choice([*SCRAPS, *TEXTS]) + text[end:]
        return self._command(self._file(text))

    def _of_override(self) -> list[Any]:
        known = [*leaves(vader.RunSpec.model_validate(self._data).model_dump())]
        overrides = []
        for _ in range(self._rng.randint(1, 2)):
            path = self._rng.choice(known) if self._rng.random() < 0.8 else self._rng.choice(TEXTS)
            overrides.append(f"{path}={self._rng.choice(TEXTS)}")
        return self._command(self._file(yaml.safe_dump(self._data)), overrides)

    def _of_prompts(self) -> list[Any]:
        rng, end = self._rng, self._rng.choice(list(ROWS))
        rows = copy.deepcopy(ROWS[end])
        if not isinstance(rows, str):
            rows = odd(rows, rng)
            if end == "jsonl":
                rows = "".join(json.dumps(row) + "\n" for row in (rows if isinstance(rows, list) else [rows]))
            else:
                rows = json.dumps(rows) if end == "json" else str(yaml.safe_dump(rows))
        held = rows.encode("utf-8", "replace")
        for _ in range(rng.randint(0, 2)):
            place = rng.randrange(len(held) + 1)
            scrap = rng.choice([b"\0", b"\xff", rng.randbytes(3), *(one.encode() for one in SCRAPS)])
            held = held[:place] + scrap + held[place + rng.randrange(2) :]
        path = self._folder / f"p.{end if rng.random() < 0.8 else rng.choice(list(ROWS))}"
        path.write_bytes(held)
        self._data["prompts"] = {"name": "file", "options": {"path": str(path)}}
        if rng.random() < 0.4:
            return ["generate", self._file(yaml.safe_dump(full("run"))), "--prompts-file", path, "--trust-code"]
        return self._command(self._file(yaml.safe_dump(self._data)))

    def _of_adapter(self) -> list[Any]:
        rng, folder = self._rng, self._folder / "adapter"
        shutil.copytree(self._sound / "whole" / "adapter", folder)
        if rng.random() < 0.8:  # else its digests tell
            (folder / "manifest.json").unlink()
        kind = rng.random()
        if kind < 0.5:
            self._change_config(folder / "adapter_config.json")
        elif kind < 0.75:
            self._change_tensors(folder / ADAPTER_FILE)
        else:
            damage(rng.choice(sorted(folder.iterdir())), rng)
        named = folder if rng.random() < 0.7 else folder / ADAPTER_FILE
        if rng.random() < 0.5:
            self._data["backbone"]["adapter"] = {"rank": 2, "init": str(named)}
            return self._command(self._file(yaml.safe_dump(self._data)))
        return ["generate", self._sound / "whole", "-p", "a fox", "--adapter", named, "--trust-code"]

    def _change_config(self, path: Path) -> None:
        rng, config = self._rng, json.loads(path.read_text())
        extra = {"rank_pattern": {"to_q": 1}, "alpha_pattern": {"(": 2}, "exclude_modules": "to_q"}
        config.update(rng.sample(sorted(extra.items()), rng.randint(0, 2)))
        for _ in range(rng.randint(1, 3)):
            config = odd(config, rng)
        path.write_text(json.dumps(config))

    def _change_tensors(self, path: Path) -> None:
        rng, tensors = self._rng, load_file(path)
        name = rng.choice(sorted(tensors))
        tensor = tensors.pop(name)
        changes: list[Callable[[], dict[str, torch.Tensor]]] = [
            lambda: {name: tensor * float("nan")},
            lambda: {name: tensor[:0].contiguous()},
            lambda: {name: tensor.flatten()},
            lambda: {name: torch.zeros(())},
            lambda: {name: tensor.to(torch.int64)},
            lambda: {name: tensor.to(torch.complex64)},
            lambda: {name: tensor.T.contiguous()},
            lambda: {name[: rng.randrange(len(name))] + rng.choice(TEXTS): tensor},
            lambda: {},
            lambda: {name: tensor, rng.choice(TEXTS) or "x": torch.ones(3)},
        ]
        text = rng.choice(TEXTS)
        save_file({**tensors, **rng.choice(changes)()}, path, rng.choice([None, {"lora_adapter_metadata": text}]))

    def _of_run(self) -> list[Any]:
        rng, run = self._rng, self._folder / "run"
        shutil.copytree(self._sound / rng.choice(["whole", "stopped"]), run)
        files = [path for path in sorted(run.rglob("*")) if path.is_file() and path.stat().st_size]
        for path in rng.sample(files, rng.randint(1, 3)):
            damage(path, rng)
        verb = rng.choice(["train", "generate", "evaluate", "report", "report"])
        if verb == "report":
            return ["report", run]
        if verb == "train":
            return ["train", self._file(yaml.safe_dump(self._data)), "--resume", "--trust-code"]
        more = ["-p", "a fox"] if verb == "generate" else []
        return [verb, run, *more, "--trust-code"] if small(run / "spec.yaml", []) else ["report", run]

    # -- what they have in common

    def _file(self, text: str) -> Path:
        path = self._folder / "run.yaml"
        path.write_text(text, errors="replace")
        return path

    def _command(self, path: Path, overrides: list[str] | None = None) -> list[Any]:
        """A command on a spec; if it is sound and asks for a large run, one that only judges it."""
        overrides = overrides or []
        verbs = (["train"], ["train", "--dry-run"], ["generate", "-p", "a fox"], ["evaluate"], ["estimate"])
        verb = self._rng.choice(verbs) if small(path, overrides) else verbs[1]
        return [verb[0], path, *verb[1:], *(f"--set={one}" for one in overrides), "--trust-code"]


def contents(folder: Path) -> dict[str, bytes]:
    """Files of a case that are not in a run's folder, nor clips, nor what is kept for later."""
    found = {}
    for path in folder.rglob("*"):
        top = folder / path.relative_to(folder).parts[0]
        ours = top.name in ("clips", "cache", "tmp") or (top / ".vader-run").exists() or (top / "report.html").exists()
        if path.is_file() and not (ours or path.is_relative_to(folder / "run")):
            found[str(path.relative_to(folder))] = path.read_bytes()
    return found


def main() -> None:
    """All of them, with a report as JSON."""
    folder, seed, count = Path(sys.argv[1]).resolve(), int(sys.argv[2]), int(sys.argv[3])
    torch.set_num_threads(1)

    def runs() -> None:
        os.chdir(folder)
        vader.train(full("whole"))
        vader.train(full("stopped"), listeners=[At(2, crash)])

    ended(fork(runs, folder / "said.txt"))
    report = []
    for number in range(count):
        rng, kind = random.Random(f"{seed}/{number}"), KINDS[number % len(KINDS)]
        report.append(Case(folder / f"case-{number:04d}", folder, rng).play(kind))
    (folder / "report.json").write_text(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()
