"""The folder of a run: what is in it, whether it may be used, and how it is described."""

from __future__ import annotations

import json
import os
import platform
import shutil
import sys
from collections.abc import Callable, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from yaml import YAMLError

from vader.errors import RunFolderError
from vader.plugins.discovery import plugin_distributions
from vader.runs import checkpoint
from vader.spec import RunSpec, differences, load_run_spec
from vader.storage import write_json, write_text

SPEC, METRICS, ENVIRONMENT, REPORT = "spec.yaml", "metrics.jsonl", "environment.json", "report.html"
_PACKAGES = (
    "vader-core",
    "torch",
    "diffusers",
    "transformers",
    "accelerate",
    "peft",
    "numpy",
    "safetensors",
    "pydantic",
)
_SPARE_BYTES = 64 * 2**20


class RunFolder:
    """Paths of a run.

    Args:
        path: the folder.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def checkpoints(self) -> Path:
        """Folder of the checkpoints."""
        return self.path / "checkpoints"

    @property
    def adapter(self) -> Path:
        """Folder of the adapter that the run ended with."""
        return self.path / "adapter"

    @property
    def best(self) -> Path:
        """Folder of the adapter with the best validation, under ``train.early_stop``."""
        return self.path / "best"

    @property
    def samples(self) -> Path:
        """Folder of the validations' clips."""
        return self.path / "samples"

    @property
    def metrics(self) -> Path:
        """The metrics, one JSON object an optimizer step."""
        return self.path / METRICS

    def open(self, spec: RunSpec, *, resume: bool, notice: Callable[[str], None]) -> checkpoint.Checkpoint | None:
        """Make the folder ready for a run, before any weight is loaded.

        Args:
            spec: the resolved spec, written to ``spec.yaml``.
            resume: go on from the newest sound checkpoint, or begin when there is none.
            notice: told of damaged checkpoints.

        Returns:
            The checkpoint to resume from.

        Raises:
            RunFolderError: it cannot be written, has no room, holds another run, or holds this one
                and ``resume`` is off.
        """
        self._make()
        self.require_space(_SPARE_BYTES)
        described = (self.path / SPEC).is_file()
        if described or any(self.checkpoints.glob("step-*")):
            self._same_run(spec, resume)
        checkpoint.clear_partial(self.path)
        found = checkpoint.newest(self.checkpoints, notice)
        if found and not described and found.digest != spec.digest():
            raise RunFolderError(
                f"output: {str(found.path)!r} is of another spec, and {SPEC} is gone. Use another folder."
            )
        self._trim_metrics(found.step if found else 0)
        write_text(self.path / SPEC, spec.to_yaml())
        return found

    def _make(self) -> None:
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            probe = self.path / ".probe.partial"
            probe.write_text("probe", encoding="utf-8")
            probe.unlink()
            for folder in (self.checkpoints, self.samples):
                folder.mkdir(exist_ok=True)
        except OSError as error:
            raise RunFolderError(
                f"output: cannot write to {str(self.path)!r}: {error.strerror}. "
                "Choose a writable folder ('output:' in the spec)."
            ) from error

    def require_space(self, needed: int) -> None:
        """Check that there is room.

        Raises:
            RunFolderError: fewer than ``needed`` bytes are free.
        """
        free = shutil.disk_usage(self.path).free
        if free < needed:
            raise RunFolderError(
                f"output: {str(self.path)!r} has {free / 2**20:.0f} MiB free; "
                f"the run needs at least {needed / 2**20:.0f} MiB."
            )

    def _same_run(self, spec: RunSpec, resume: bool) -> None:
        if not resume:
            raise RunFolderError(
                f"output: {str(self.path)!r} already holds a run. "
                "Resume it with --resume (resume=True), or choose another folder."
            )
        changed = differences(self._started_with(), spec) if (self.path / SPEC).is_file() else []
        if changed:
            listed = "".join(f"\n  {change}" for change in changed)
            raise RunFolderError(
                f"output: {str(self.path)!r} holds a run of another spec; resuming would mix them:{listed}\n"
                "Use the spec it was started with, or another folder."
            )

    def _started_with(self) -> RunSpec:
        try:
            return load_run_spec(self.path)
        except (ValueError, YAMLError) as error:
            raise RunFolderError(
                f"output: {str(self.path / SPEC)!r} has been changed and is no spec now: {error}"
            ) from error

    def _trim_metrics(self, step: int) -> None:
        """Drop lines of optimizer steps after ``step``: they will be made again. A torn last line goes too."""
        if self.metrics.is_file():
            kept = [line for line in read_metrics(self.path) if line["step"] <= step]
            write_text(self.metrics, "".join(json.dumps(line) + "\n" for line in kept))

    def describe(self, environment: Mapping[str, Any]) -> None:
        """Write ``environment.json``: versions, system and what the caller adds."""
        data = {
            "versions": versions(),
            "python": sys.version.split()[0],
            "platform": platform.platform(),
            "cpus": os.cpu_count(),
        }
        write_json(self.path / ENVIRONMENT, {**data, **environment})


def versions() -> dict[str, str]:
    """Versions of the packages that a run's numbers depend on, plugins included."""
    found = {}
    for name in _PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    for plugin in plugin_distributions():
        found[plugin.name] = plugin.version
    return found


def read_metrics(folder: Path) -> list[dict[str, Any]]:
    """The metrics of a run, one mapping an optimizer step. A torn last line, from a crash, is left out."""
    path = folder / METRICS
    lines = []
    for line in path.read_text(encoding="utf-8").splitlines() if path.is_file() else []:
        try:
            lines.append(json.loads(line))
        except ValueError:
            break
    return lines
