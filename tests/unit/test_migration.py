"""Settings of other trainers: all of them are in the tables, every place is there, and files become sound specs."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch

from vader.errors import SpecError
from vader.migration import modelscope, opensora, videocrafter, videox_fun
from vader.migration.keys import Key
from vader.migration.page import TABLES, renewed
from vader.migration.source import TRAINERS
from vader.migration.translate import translate
from vader.resolve.installed import option_models
from vader.spec import RunSpec
from vader.spec.tables import fields

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs" / "coming-from"
KNOWN: dict[str, list[str]] = json.loads((ROOT / "tests" / "golden" / "trainer_settings.json").read_text("utf-8"))
KINDS = {"backbone": "backbone", "sampler": "sampler", "prompts": "prompts", "rewards[]": "reward", "method": "method"}


@pytest.mark.parametrize("name", TABLES)
def test_a_table_has_every_setting_once_and_no_other(name: str) -> None:
    assert sorted(key.name for key in TABLES[name][1]) == sorted(KNOWN[name])


@pytest.mark.parametrize("page", sorted(DOCS.glob("*.md")), ids=lambda page: page.stem)
def test_a_page_shows_the_tables_that_translate(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert text == renewed(text), "run: python -m vader.migration.page docs/coming-from"


def test_the_page_of_the_reference_names_every_setting() -> None:
    text = (DOCS / "vader.md").read_text(encoding="utf-8")
    written = {f"--{name}" for name in KNOWN["videocrafter"]} | {*KNOWN["opensora"], *KNOWN["modelscope"]}
    assert {name for name in written if f"| `{name}` |" not in text} == set()


@pytest.fixture(scope="module")
def places() -> set[str]:
    """Every place in a spec, the options of components included."""
    found = {line.name for line in fields(RunSpec)} | {"backbone.adapter"}
    for section, kind in KINDS.items():
        for model in option_models()[kind].values():
            assert model is not None
            found |= {f"{section}.options.{name}" for name in model.model_fields}
    return found


@pytest.mark.parametrize(
    "key", [key for trainer in TRAINERS for key in trainer.keys if key.place], ids=lambda k: k.name
)
def test_a_place_is_one(key: Key, places: set[str]) -> None:
    assert key.place in places


@pytest.mark.parametrize("page", ["trl", "roll"])
def test_places_that_a_page_names_are_there(page: str, places: set[str]) -> None:
    rows = re.findall(r"^\| .*? \| (.*?) \|", (DOCS / f"{page}.md").read_text("utf-8"), flags=re.MULTILINE)
    named = [place for row in rows for place in re.findall(r"`([^`]+)`", row)]
    assert len(named) > 10
    assert [place for place in named if place not in places] == []


def test_a_setting_without_a_place_says_why() -> None:
    assert [key.name for trainer in TRAINERS for key in trainer.keys if not key.place and not key.meaning] == []


def script(folder: Path, command: str) -> Path:
    """A launch script, below a folder with the prompts that it names."""
    (folder / "assets").mkdir()
    for name in ("chatgpt_custom_instruments", "hps_custom", "simple_animals", "activities"):
        (folder / "assets" / f"{name}.txt").write_text("a fox\na heron\n")
    path = folder / "scripts" / "train.sh"
    path.parent.mkdir()
    path.write_text(command)
    return path


VIDEOCRAFTER = """
ckpt='checkpoints/base_512_v2/model.ckpt'
PORT=$((20000 + RANDOM % 10000))

accelerate launch --multi_gpu --main_process_port $PORT scripts/main/train_t2v_lora.py \\
--seed 300 \\
--ckpt_path $ckpt \\
--height 320 --width 512 \\
--unconditional_guidance_scale 12.0 \\
--ddim_steps 25 --frames 12 \\
--prompt_fn 'chatgpt_custom_instruments' \\
--gradient_accumulation_steps 8 \\
--reward_fn 'aesthetic_hps' \\
--decode_frame '-1' \\
--validation_steps 10 \\
--lora_rank 16 \\
--use_AdamW8bit True \\
--savefps 8 \\
--colour blue \\
--max_train_steps 450
"""


def test_a_script_of_videocrafter(tmp_path: Path) -> None:
    made = translate(script(tmp_path, VIDEOCRAFTER))
    spec = made.spec
    assert spec["backbone"] == {
        "name": "videocrafter2",
        "adapter": {"alpha": 8.0, "dropout": 0.01, "rank": 16},
        "options": {"weights": "checkpoints/base_512_v2/model.ckpt"},
    }
    assert spec["sampler"] == {"name": "videocrafter_ddim", "steps": 25, "eta": 1.0, "guidance_scale": 12.0}
    assert spec["video"] == {"height": 320, "width": 512, "frames": 12, "fps": 24}
    assert spec["prompts"]["options"]["path"] == str(tmp_path / "assets" / "chatgpt_custom_instruments.txt")
    assert [(one["name"], one["weight"]) for one in spec["rewards"]] == [("aesthetic", 0.075), ("hps", 0.5)]
    assert spec["gradient"] == {"mode": "last"}
    assert spec["frames"] == {"mode": "random"}
    train = spec["train"]
    assert (train["steps"], train["validate_every"], train["learning_rate"]) == (450, 80, 2e-4)
    assert {note.split(" =")[0] for note in made.notes} == {"use_AdamW8bit", "savefps", "colour"}
    assert RunSpec.model_validate(spec)
    assert "# Not translated: use_AdamW8bit = True" in made.to_yaml()


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ("--backprop_mode rand", {"mode": "rand"}),
        ("--backprop_mode specific --ddim_steps 25", {"mode": "specific", "from_step": 15}),
    ],
)
def test_the_window_of_the_reference(tmp_path: Path, flags: str, expected: dict[str, Any]) -> None:
    made = translate(script(tmp_path, f"python scripts/main/train_t2v_lora.py {flags}\n"))
    assert made.spec["gradient"] == expected


@pytest.mark.parametrize("reward", videocrafter.REWARDS)
def test_every_reward_of_the_reference_becomes_one(tmp_path: Path, reward: str) -> None:
    made = translate(script(tmp_path, f"python scripts/main/train_t2v_lora.py --reward_fn {reward}\n"))
    models = option_models()["reward"]
    for one in made.spec["rewards"]:
        model = models[one["name"]]
        assert model is not None
        assert model.model_validate(one.get("options", {}))
    assert made.notes == ()


def test_a_value_without_counterpart_is_said(tmp_path: Path) -> None:
    made = translate(
        script(tmp_path, "python scripts/main/train_t2v_lora.py --mixed_precision fp8 --inference_only True\n")
    )
    assert [note.split(":")[0] for note in made.notes] == ["mixed_precision = 'fp8'", "inference_only = True"]
    assert "vader generate" in made.notes[1]


CONFIG = """
resolution = "240p"
num_frames = 16
scheduler = dict(type="rflow", num_sampling_steps=20, cfg_scale=7.0)
model = dict(from_pretrained="folder/of/mine")
is_vader_training = True
reward_fn = "hps"
lora_rank = 4
grad_checkpoint = True
computed = 3 + nothing
"""


def test_a_file_and_flags_of_opensora(tmp_path: Path) -> None:
    path = script(
        tmp_path,
        "accelerate launch --num_processes 4 scripts/train_t2v_lora.py vader_train.py --num-frames 2s "
        '--aspect-ratio 3:4 --prompt-path "../assets/hps_custom.txt" --reference-path a b\n',
    )
    (tmp_path / "vader_train.py").write_text(CONFIG)
    made = translate(path)
    assert made.spec["backbone"]["options"] == {
        "resolution": "240p",
        "aspect_ratio": "3:4",
        "length": "2s",
        "aesthetic_score": 6.5,
        "denoiser": "folder/of/mine",
    }
    assert made.spec["sampler"]["steps"] == 20
    assert made.spec["train"]["processes"] == 4
    assert made.spec["validation"]["clips"] == 8  # two runs, four processes
    assert made.spec["backbone"]["adapter"]["rank"] == 4
    assert [note.split(" =")[0] for note in made.notes] == ["reference_path"]
    alone = translate(tmp_path / "vader_train.py")
    assert alone.spec["backbone"]["options"]["length"] == 16
    assert alone.notes[0].startswith("prompt: no prompts are named")


def test_overrides_of_modelscope_count_micro_steps(tmp_path: Path) -> None:
    command = "accelerate launch train_t2v_lora.py gradient_accumulation_steps=16 prompt_fn=hps_custom reward_fn=hps\n"
    made = translate(script(tmp_path, command))
    assert made.spec["train"]["steps"] == 625
    assert made.spec["train"]["gradient_accumulation"] == 16
    assert made.spec["rewards"] == [
        {"name": "hps", "weight": 1.0, "options": {"version": "v2.0", "preprocess": "reference"}}
    ]
    assert made.spec["sampler"]["options"] == {"scheduler": "DPMSolverMultistepScheduler"}


VIDEOX_FUN = """
export MODEL_NAME="models/Diffusion_Transformer/Wan2.1-T2V-1.3B"
export STEPS=5
accelerate launch --mixed_precision="bf16" scripts/wan2.1/train_reward_lora.py \\
  --config_path="config/wan2.1/wan_civitai.yaml" --pretrained_model_name_or_path=$MODEL_NAME \\
  --rank=32 --network_alpha=16 --train_batch_size=1 --max_train_steps=10000 --learning_rate=1e-05 \\
  --gradient_checkpointing --vae_gradient_checkpointing --low_vram --prompt_path=assets/hps_custom.txt \\
  --train_sample_height=256 --train_sample_width=256 --num_inference_steps=30 --video_length=81 \\
  --num_decoded_latents=1 --reward_fn="HPSReward" --reward_fn_kwargs='{"version": "v2.1"}' \\
  --backprop_strategy "tail" --backprop_num_steps=$STEPS --backprop --adam_epsilon=1e-10
"""


def test_a_script_of_videox_fun(tmp_path: Path) -> None:
    made = translate(script(tmp_path, VIDEOX_FUN))
    assert made.spec["backbone"]["options"] == {
        "weights": "Wan-AI/Wan2.1-T2V-1.3B-Diffusers",
        "text_encoder_offload": "cpu",
    }
    assert made.spec["gradient"] == {"mode": "tail", "k": 5, "stop_gradient": False}
    assert made.spec["rewards"] == [{"name": "hps", "weight": 1.0, "target": 1.0, "options": {"version": "v2.1"}}]
    assert made.spec["frames"] == {"mode": "index", "index": 0}
    assert made.spec["train"]["mixed_precision"] == "bf16"
    assert [note.split(" =")[0] for note in made.notes] == ["adam_epsilon"]


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ("--backprop_step_list 27 28 29", {"mode": "tail", "k": 3, "stop_gradient": False}),
        ("--backprop_strategy random --backprop_num_steps 2", {"mode": "subset", "k": 2, "stop_gradient": False}),
        ("--backprop_strategy uniform --backprop_num_steps 3", {"mode": "uniform", "k": 3, "stop_gradient": False}),
    ],
)
def test_windows_of_videox_fun(tmp_path: Path, flags: str, said: dict[str, Any]) -> None:
    command = f"python scripts/wan2.1/train_reward_lora.py --num_inference_steps 30 {flags}\n"
    assert translate(script(tmp_path, command)).spec["gradient"] == said


@pytest.mark.parametrize("trainer", ["wan", "cogvideox"])
def test_the_layers_named_are_every_linear_layer(trainer: str) -> None:
    from diffusers import CogVideoXTransformer3DModel, WanTransformer3DModel

    with torch.device("meta"):
        network: torch.nn.Module
        if trainer == "wan":
            network = WanTransformer3DModel(num_attention_heads=2, attention_head_dim=12, num_layers=1, ffn_dim=8)
        else:
            network = CogVideoXTransformer3DModel(num_attention_heads=2, attention_head_dim=8, num_layers=1)
    named = videox_fun.WAN_LAYERS if trainer == "wan" else videox_fun.COGVIDEOX_LAYERS
    linear = {name for name, module in network.named_modules() if isinstance(module, torch.nn.Linear)}
    found = {name: [end for end in named if name == end or name.endswith(f".{end}")] for name in linear}
    assert [name for name, ends in found.items() if len(ends) != 1] == []
    assert {end for ends in found.values() for end in ends} == set(named)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("run.sh", "echo hello\n", "no command in it starts a trainer that is known"),
        ("run.yaml", "backbone: wan\n", "has no pretrained_model_path"),
        ("run.py", "x = 1\n", "sets none of the trainer's keys"),
        ("run.py", "x = = 1\n", "not valid Python"),
        ("run.sh", "python scripts/main/train_t2v_lora.py --lr fast\n", "lr: expected a number; found 'fast'"),
        (
            "run.sh",
            "python scripts/wan2.1/train_reward_lora.py --max_train_steps x\n",
            "max_train_steps: cannot be read",
        ),
        ("run.sh", "python scripts/main/train_t2v_lora.py --lr -1\n", "train.learning_rate: expected greater than 0"),
    ],
)
def test_a_file_that_cannot_be_translated(tmp_path: Path, name: str, text: str, message: str) -> None:
    path = tmp_path / name
    path.write_text(text)
    with pytest.raises(SpecError, match=re.escape(message)):
        translate(path)
    with pytest.raises(SpecError, match="cannot read the file"):
        translate(tmp_path / "nowhere.sh")


def test_nothing_of_a_file_is_run(tmp_path: Path) -> None:
    (tmp_path / "train.py").write_text(f"lora_rank = open({str(tmp_path / 'written')!r}, 'w')\nreward_fn = 'hps'\n")
    translate(tmp_path / "train.py")
    assert not (tmp_path / "written").exists()


def test_modules_of_tables_are_those_of_the_pages() -> None:
    assert [trainer.keys for trainer in TRAINERS[:3]] == [videocrafter.KEYS, opensora.KEYS, modelscope.KEYS]
