"""What is public: the names of ``vader.sdk``, and that plugins import nothing else of vader."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

import vader
import vader.sdk
import vader.testing
from vader.scaffold import KINDS, write

ROOT = Path(__file__).parents[2]
RULE = "Plugins see what is public, and nothing else"
PUBLIC = {"vader": vader, "vader.sdk": vader.sdk, "vader.testing": vader.testing}

EXPORTED = {
    "AdapterSpec", "Branch", "CachesConditioning", "CausalPrefix", "Conversion", "Convertible", "DecodePlan",
    "DecodesForReward", "Difference",
    "ExportsNative", "Family", "FamilyBackbone", "FamilyOptions", "Frames", "Grid", "INDEX", "Latents",
    "MetaBuildable", "MetaTokens", "NamedPromptSets", "NativeAdapters", "PEFT_CONFIG", "PICKLED", "Parts",
    "PerFrame", "PipelineFolder", "Place", "Prediction", "Problem", "SAFETENSORS", "Scores", "StartsFromNative",
    "RewardDecoderOptions", "TEXT_WIDTH", "ValidatesSpec", "VariesGuidance", "WholeClip", "by_factor",
    "by_statistics", "byte_tokenizer",
    "check_safetensors", "compare_shapes", "diffusion_schedule", "draw_evenly", "draw_weighted", "first_line",
    "flow_schedule", "flow_step", "frame_indices", "from_signed", "hub_file", "hub_folder", "is_hub_id",
    "load_pickled", "meta_network", "pipeline_encode", "published_as", "read_adapter", "read_prompts",
    "read_weighted", "recompute_layers", "shapes_of", "shown", "tiny_t5", "tiny_umt5", "to_uint8", "unreadable",
    "ExpertOptions", "call_denoiser", "Images", "TakesImage", "first_latents", "pixels", "LimitsAdapters", "KnowsNoise",
    "HoldsPrompts", "ReleasesTextEncoder", "write_adapter", "user_path", "install_command", "GivesNotices",
    "CutsPrompts", "beyond", "beyond_room",
    "EncodesClips", "GivesTrunk", "LatentReward", "Layers", "encoded_by_factor",
    "encoded_by_statistics",
    "CombinesGuidance", "MemoryOption", "byte_vocabulary", "decode_whole",
    "even_flow_schedule", "shift_by_size",
    "RolloutContext", "Window", "no_gradient",
}  # fmt: skip


def private(source: str) -> Iterator[str]:
    """The imports of private names of vader in a plugin's source, those for type checkers included."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (a.name for a in node.names if a.name.partition(".")[0] == "vader" and a.name not in PUBLIC)
        elif isinstance(node, ast.ImportFrom) and node.module and node.module.partition(".")[0] == "vader":
            if node.module not in PUBLIC:
                yield node.module
                continue
            names = {name.name for name in node.names} - set(PUBLIC[node.module].__all__)
            yield from (f"{node.module}.{name}" for name in sorted(names) if f"{node.module}.{name}" not in PUBLIC)


def test_sdk_names_are_pinned_and_there() -> None:
    assert set(vader.sdk.__all__) == EXPORTED
    assert dir(vader.sdk) == sorted(EXPORTED)
    assert all(getattr(vader.sdk, name) is not None for name in EXPORTED)
    with pytest.raises(AttributeError, match=r"module 'vader\.sdk' has no attribute 'hub_fiel'"):
        vader.sdk.hub_fiel  # noqa: B018


def test_sdk_names_for_type_checkers_are_the_exported_ones() -> None:
    tree = ast.parse(Path(vader.sdk.__file__).read_text(encoding="utf-8"))
    block = next(node for node in tree.body if isinstance(node, ast.If))
    imports = [node for node in block.body if isinstance(node, ast.ImportFrom)]
    typed = {alias.asname or "": f"{node.module}:{alias.name}" for node in imports for alias in node.names}
    for node in block.body:
        if isinstance(node, ast.Assign):
            module, _, name = ast.unparse(node.value).rpartition(".")
            typed[ast.unparse(node.targets[0])] = f"{module}:{name}"
    assert typed == vader.sdk._PUBLIC


def test_importing_the_sdk_and_its_light_names_loads_no_torch() -> None:
    code = (
        "import sys, vader.sdk; from vader.sdk import PICKLED, AdapterSpec, PipelineFolder, Prediction, hub_file, "
        "draw_evenly, read_prompts, Place, Problem; print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


@pytest.mark.parametrize("plugin", sorted(path.name for path in (ROOT / "plugins").iterdir() if path.is_dir()))
def test_a_plugin_imports_what_is_public_and_nothing_else(plugin: str) -> None:
    files = [*(ROOT / "plugins" / plugin / "src").rglob("*.py")]
    found = {str(file.relative_to(ROOT)): [*private(file.read_text(encoding="utf-8"))] for file in files}
    assert {file: names for file, names in found.items() if names} == {}


@pytest.mark.parametrize("kind", KINDS)
def test_what_the_scaffold_writes_imports_what_is_public_and_nothing_else(kind: str, tmp_path: Path) -> None:
    for file in write(kind, "zz-new", tmp_path).rglob("*.py"):
        assert [*private(file.read_text(encoding="utf-8"))] == [], file


@pytest.mark.parametrize(
    ("line", "name"),
    [
        ("from vader.weights.files import shown", "vader.weights.files"),
        ("import vader.resolve.plan", "vader.resolve.plan"),
        ("from vader import sdk, weights", "vader.weights"),
        ("from vader.sdk import restore", "vader.sdk.restore"),
        ("if TYPE_CHECKING:\n    from vader.spec import AdapterSpec", "vader.spec"),
    ],
)
def test_a_private_name_is_found(line: str, name: str) -> None:
    assert [*private(line)] == [name]


@pytest.mark.parametrize(("line", "kept"), [("from vader.weights import files", False), ("import vader.sdk", True)])
def test_the_import_contract_refuses_a_plugin_with_a_private_import(line: str, kept: bool, tmp_path: Path) -> None:
    tools = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["importlinter"]
    contract = next(contract for contract in tools["contracts"] if contract["name"] == RULE)
    package = tmp_path / "zz_planted"
    package.mkdir()
    (package / "__init__.py").write_text(line + "\n")
    forbidden = "".join(f"\n    {name}" for name in contract["forbidden_modules"])
    (tmp_path / "rule.ini").write_text(
        "[importlinter]\nroot_packages =\n    vader\n    zz_planted\n\n[importlinter:contract:1]\n"
        f"name = {RULE}\ntype = {contract['type']}\nsource_modules = zz_planted\nforbidden_modules ={forbidden}\n"
        f"allow_indirect_imports = {contract['allow_indirect_imports']}\n"
    )
    here = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), str(Path(vader.__file__).parents[1])])}
    code = "import sys; from importlinter.cli import lint_imports; sys.exit(lint_imports('rule.ini', no_cache=True))"
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=tmp_path, env=here, capture_output=True, text=True, timeout=120, check=False)
    assert (done.returncode == 0) == kept, done.stdout + done.stderr
    assert ("BROKEN" in done.stdout) == (not kept), done.stdout + done.stderr


def test_the_documentation_names_every_public_name() -> None:
    text = (ROOT / "docs" / "reference" / "sdk.md").read_text(encoding="utf-8")
    said = {"read_adapter": "`read_adapter`", "write_adapter": "`write_adapter`", "INDEX": "`INDEX`"}
    assert [name for name in sorted(EXPORTED) if said.get(name, name) not in text] == []
