"""The settings of VADER-Open-Sora, ``scripts/train_t2v_lora.py``: a Python file, and flags over it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from vader.migration import shared
from vader.migration.keys import Fields, Key, NoCounterpart, Settings, Trainer, nothing, one_of
from vader.migration.videocrafter import clips, every, seeds, steps, version

REWARDS = ("aesthetic", "hps", "aesthetic_hps", "pick_score")
SCORES = "Appended to every prompt."


def published(name: str, place: str) -> shared.Convert:
    """A part of the model, left out where it is the published one."""

    def convert(value: Any, settings: Settings) -> Fields:
        return {} if value in (name, None) else {place: value}

    return convert


def prompts(value: Any, settings: Settings) -> Fields:
    """A list of prompts, else their file."""
    if value:
        texts = [value] if isinstance(value, str) else list(value)
        return {"prompts": {"name": "list", "options": {"prompts": texts}}}
    if not settings["prompt_path"]:
        raise NoCounterpart("no prompts are named. Write the source into the spec: 'vader prompts' lists them.")
    path = settings.find(str(settings["prompt_path"]).removeprefix("../"))
    return {"prompts": {"name": "file", "options": {"path": path}}}


def length(value: Any, _settings: Settings) -> Fields:
    """Seconds as Open-Sora writes them, or a number of frames."""
    text = str(value)
    return {"backbone.options.length": int(text) if text.isdecimal() else text}


def training(value: bool, _settings: Settings) -> Fields:
    """A run that only makes clips is another command."""
    if not value:
        raise NoCounterpart("make clips with 'vader generate', or compare with the base model by 'vader evaluate'.")
    return {}


def size(value: Any, _settings: Settings) -> Fields:
    """Height and width, in place of resolution and aspect ratio."""
    if value is None:
        return {}
    raise NoCounterpart("a clip has one of Open-Sora's sizes. Give resolution and aspect_ratio.")


def dtype(value: str, settings: Settings) -> Fields:
    """The weights' precision, which is that of the run here."""
    if value != settings["mixed_precision"] and not (value == "fp32" and settings["mixed_precision"] == "no"):
        raise NoCounterpart("the frozen weights have train.mixed_precision too.")
    return {}


NONE = "Of Open-Sora's own inference; the trainer does not read it."
VIDEO = "Conditioning on a given clip has no counterpart with this model."
FLAG = "A flag of Open-Sora's own training, which this trainer does not read."

KEYS = (
    Key("config", "", meaning="Its settings are the others of this table.", convert=nothing),
    Key("seed", 200, "train.seed", "Also `validation.seed`.", seeds),
    Key("ckpt_path", "", "backbone.options.denoiser", "Over `model.from_pretrained`."),
    Key("batch_size", 0, meaning="Not read; see `train_batch_size`.", convert=nothing),
    Key("outputs", "", meaning="Not read; see `project_dir`.", convert=nothing),
    Key("flash_attn", False, meaning="Attention is torch's own, which is exact and needs no package."),
    Key("layernorm_kernel", False, meaning="Layer norm is torch's own."),
    Key("data_path", "", meaning="No clips are read: the trainer makes its own."),
    Key("resolution", "240p", "backbone.options.resolution"),
    Key("aspect_ratio", "9:16", "backbone.options.aspect_ratio"),
    Key("image_size", None, "backbone.options.resolution", "No free sizes.", size),
    Key("num_frames", "16", "backbone.options.length", "`2s`, or a number of frames.", length),
    Key("fps", 24, "video.fps"),
    Key("save_fps", 24, meaning="Clips are saved at `video.fps`."),
    Key("frame_interval", 1, meaning="Every frame is made."),
    Key("num_sampling_steps", 0, "sampler.steps", "Over `scheduler.num_sampling_steps`.", nothing),
    Key("cfg_scale", 0.0, "sampler.guidance_scale", "Over `scheduler.cfg_scale`.", nothing),
    Key("prompt", None, "prompts", "The source `list`.", prompts),
    Key("prompt_path", "", "prompts", "The source `file`.", nothing),
    Key("start_index", 0, meaning="Cut the file of prompts."),
    Key("end_index", 0, meaning="Cut the file of prompts."),
    Key("prompt_generator", "", meaning="Write what it generates into a file of prompts."),
    Key("llm_refine", False, meaning="Write the refined prompts into a file."),
    Key("aes", 6.5, "backbone.options.aesthetic_score", SCORES),
    Key("flow", None, "backbone.options.motion_score", SCORES),
    Key("camera_motion", None, "backbone.options.camera_motion", SCORES),
    *(Key(name, default, meaning=VIDEO) for name, default in (("reference_path", None), ("mask_strategy", None))),
    Key("loop", 1, meaning=VIDEO),
    Key("condition_frame_length", 5, meaning=VIDEO, convert=nothing),
    Key("condition_frame_edit", 0.0, meaning=VIDEO),
    Key("align", 5, meaning=VIDEO, convert=nothing),
    Key("multi_resolution", "STDiT2", meaning="The size is always told to the network, as this does.", convert=nothing),
    *(Key(name, None, meaning=NONE) for name in ("save_dir", "sample_name", "num_sample", "watermark", "verbose")),
    Key("prompt_as_path", False, meaning="Clips are named by number, and listed with their prompts."),
    *(Key(name, None, meaning=FLAG) for name in ("wandb", "load", "start_from_scratch", "warmup_steps")),
    Key("model.type", "STDiT3-XL/2", meaning="The only one.", convert=one_of("", {"STDiT3-XL/2": None})),
    Key(
        "model.from_pretrained",
        "hpcai-tech/OpenSora-STDiT-v3",
        "backbone.options.denoiser",
        "Null is the published one.",
        published("hpcai-tech/OpenSora-STDiT-v3", "backbone.options.denoiser"),
    ),
    Key("model.qk_norm", True, meaning="As the checkpoint was trained."),
    Key("model.enable_flash_attn", False, meaning="Attention is torch's own."),
    Key("model.enable_layernorm_kernel", False, meaning="Layer norm is torch's own."),
    Key("vae.type", "OpenSoraVAE_V1_2", meaning="The only one."),
    Key(
        "vae.from_pretrained",
        "hpcai-tech/OpenSora-VAE-v1.2",
        "backbone.options.vae",
        "Null is the published one.",
        published("hpcai-tech/OpenSora-VAE-v1.2", "backbone.options.vae"),
    ),
    Key("vae.micro_frame_size", 17, meaning="The windows of time are 17 frames, as the checkpoint was trained."),
    Key("vae.micro_batch_size", 4, meaning="Frames are decoded one at a time, and recomputed in backward."),
    Key("text_encoder.type", "t5", meaning="The only one."),
    Key(
        "text_encoder.from_pretrained",
        "DeepFloyd/t5-v1_1-xxl",
        "backbone.options.text_encoder",
        "Null is the published one.",
        published("DeepFloyd/t5-v1_1-xxl", "backbone.options.text_encoder"),
    ),
    Key("text_encoder.model_max_length", 300, meaning="300, as the checkpoint was trained."),
    Key("scheduler.type", "rflow", "sampler.name", "`opensora_rflow`.", nothing),
    Key("scheduler.use_timestep_transform", True, "sampler.options.transform"),
    Key(
        "scheduler.num_sampling_steps",
        30,
        "sampler.steps",
        "",
        lambda value, settings: {"sampler.steps": settings["num_sampling_steps"] or value},
    ),
    Key(
        "scheduler.cfg_scale",
        7.0,
        "sampler.guidance_scale",
        "",
        lambda value, settings: {"sampler.guidance_scale": settings["cfg_scale"] or value},
    ),
    Key("is_vader_training", True, meaning="Another command: `vader generate`, `vader evaluate`.", convert=training),
    Key("val_batch_size", 1, "validation.batch_size"),
    Key("num_val_runs", 2, "validation.clips", "Runs x batch size x processes.", clips),
    Key(
        "lora_ckpt_path",
        "",
        "backbone.adapter.init",
        "The reference's own file is read as it is.",
        shared.adapter_file,
    ),
    Key("project_dir", "./project_dir", "output"),
    Key("lr", 2e-4, "train.learning_rate"),
    Key("reward_fn", "hps", "rewards", shared.REWARDS_TEXT, shared.rewards(REWARDS, version)),
    Key("lora_rank", 16, "backbone.adapter.rank", "alpha stays 8 there whatever the rank, and dropout 0.01."),
    Key("dtype", "bf16", "train.mixed_precision", "The frozen weights have it too.", dtype),
    Key("mixed_precision", "bf16", "train.mixed_precision", "", shared.precision),
    Key(
        "validation_steps",
        10,
        "train.validate_every",
        "There it is multiplied by the accumulation, so it is here.",
        every("train.validate_every"),
    ),
    Key(
        "checkpointing_steps",
        1,
        "train.checkpoint_every",
        "There it is multiplied by the accumulation, so it is here.",
        every("train.checkpoint_every"),
    ),
    Key("use_AdamW8bit", False, meaning="The optimizer is AdamW; an adapter's states are small."),
    Key("hps_version", "v2.1", "rewards[].options.version", "Of `hps`.", nothing),
    Key("num_train_epochs", 200, "train.steps", "An epoch is 100 micro-steps; the smaller limit counts.", nothing),
    Key("max_train_steps", 800, "train.steps", "Optimizer steps.", steps),
    shared.backprop("scheduler.num_sampling_steps"),
    replace(
        shared.FRAMES,
        meaning="`-1`: `random`. A number: `index`, with `frames.index`; there it counts latent frames, here frames. "
        "`all` and `alt` as they are, though training refuses them there.",
        convert=shared.frames,
    ),
    Key("is_sample_preview", True, "validation.clips", "False: 0, no validation.", nothing),
    Key("grad_checkpoint", True, "train.gradient_checkpointing"),
    *(replace(key, default=8) if key.name == "gradient_accumulation_steps" else key for key in shared.COMMON),
)

TRAINER = Trainer(
    "VADER-Open-Sora",
    KEYS,
    {
        "backbone.name": "opensora",
        "backbone.adapter.alpha": 8.0,
        "backbone.adapter.dropout": 0.01,
        "sampler.name": "opensora_rflow",
        "sampler.options.size_dtype": "bfloat16",
    },
    ("scripts/train_t2v_lora.py",),
    style="config",
)
