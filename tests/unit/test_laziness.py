"""What importing vader costs, and what it exports."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import vader

HEAVY = ["torch", "diffusers", "transformers", "peft", "accelerate", "numpy", "imageio"]

EXPORTED = {
    "estimate", "fit_memory",
    "Backbone", "Batch", "CheckpointError", "ComponentError", "Conditioning", "LaunchError", "Loss", "Method",
    "NoiseSchedule",
    "NonFiniteError", "Options", "Prompt", "PromptSource", "RegistryError", "Reward", "Run", "RunFolderError",
    "RunResult", "RunSpec", "Runtime", "Sampler", "SamplerContext", "SpecError", "StepOutput", "VaderError",
    "Validation", "Video", "WeightsError", "__version__", "check", "evaluate", "generate", "hookimpl",
    "train",
}  # fmt: skip


def fresh(code: str) -> str:
    """Output of code in a new interpreter."""
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.mark.parametrize(
    "module",
    [
        "vader", "vader.errors", "vader.spec", "vader.spec.reading", "vader.plugins.registry", "vader.runs.events",
        "vader.diffusion.seeding", "vader.protocols", "vader.sdk",
    ],
)  # fmt: skip
def test_importing_loads_nothing_heavy(module: str) -> None:
    assert fresh(f"import sys, {module}; print([m for m in {HEAVY} if m in sys.modules])") == "[]"


def test_importing_vader_loads_none_of_its_modules() -> None:
    assert fresh("import sys, vader; print([m for m in sys.modules if m.startswith('vader.')])") == "[]"


def test_light_names_load_nothing_heavy() -> None:
    code = "vader.Options, vader.RunSpec, vader.hookimpl, vader.SpecError, vader.Prompt, vader.Video, vader.Reward"
    assert fresh(f"import sys, vader; {code}; print([m for m in {HEAVY} if m in sys.modules])") == "[]"


def test_listing_components_loads_nothing_heavy() -> None:
    code = "from vader.plugins.registry import GROUPS, entries; [entries(kind) for kind in GROUPS]"
    assert fresh(f"import sys; {code}; print([m for m in {HEAVY} if m in sys.modules])") == "[]"


def test_the_diffusers_sampler_loads_diffusers_only_when_it_is_built() -> None:
    assert fresh("import sys, vader.diffusion.samplers.diffusers; print('diffusers' in sys.modules)") == "False"


def test_exported_names_are_pinned() -> None:
    assert set(vader.__all__) == EXPORTED
    assert len(vader.__all__) == len(EXPORTED)


def test_names_for_type_checkers_are_the_exported_ones() -> None:
    tree = ast.parse(Path(vader.__file__).read_text(encoding="utf-8"))
    block = next(node for node in tree.body if isinstance(node, ast.If))
    imports = [node for node in block.body if isinstance(node, ast.ImportFrom)]
    typed = {(alias.name, node.module) for node in imports for alias in node.names}
    assert typed == set(vader._PUBLIC.items())


@pytest.mark.parametrize("name", sorted(EXPORTED))
def test_every_exported_name_is_there(name: str) -> None:
    assert getattr(vader, name) is not None


def test_exported_names_are_listed() -> None:
    assert dir(vader) == sorted(EXPORTED)


def test_another_name_is_no_attribute() -> None:
    with pytest.raises(AttributeError, match="module 'vader' has no attribute 'trian'"):
        vader.trian  # noqa: B018
