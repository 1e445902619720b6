"""The settings of VADER-VideoCrafter, ``scripts/main/train_t2v_lora.py``."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from vader.migration import shared
from vader.migration.keys import Fields, Key, NoCounterpart, Settings, Trainer, nothing, one_of


def steps(value: int, settings: Settings) -> Fields:
    """The smaller of the two limits: an epoch is 100 micro-steps, and only optimizer steps are counted."""
    accumulation = settings["gradient_accumulation_steps"]
    return {"train.steps": max(1, min(value, settings["num_train_epochs"] * 100 // accumulation))}


def every(place: str) -> shared.Convert:
    """The conversion of a frequency, which the trainer multiplies with the accumulation."""
    return lambda value, settings: {place: value * settings["gradient_accumulation_steps"]}


def clips(value: int, settings: Settings) -> Fields:
    """How many clips a validation makes; none without previews."""
    processes = settings.values.get("num_processes") or 1
    wanted = settings["num_val_runs"] * settings["val_batch_size"] * processes
    return {"validation.clips": wanted if settings["is_sample_preview"] else 0}


def inference(value: bool, _settings: Settings) -> Fields:
    """A run that only makes clips is another command."""
    if value:
        raise NoCounterpart("make clips with 'vader generate', or compare with the base model by 'vader evaluate'.")
    return {}


def seeds(value: int, _settings: Settings) -> Fields:
    """One seed for training and validation."""
    return {"train.seed": value, "validation.seed": value}


def frames(value: int, _settings: Settings) -> Fields:
    """A negative number means the checkpoint's own."""
    return {"video.frames": value} if value > 0 else {}


REWARDS = (
    *("aesthetic", "hps", "aesthetic_hps", "pick_score", "rainy", "snowy"),
    *("objectDetection", "compression_score", "compression", "actpred"),
)


def version(settings: Settings) -> str:
    """Of HPS."""
    return str(settings["hps_version"])


def weights(value: Any, settings: Settings) -> Fields:
    """The checkpoint."""
    return {"backbone.options.weights": settings.find(str(value))} if value else {}


KEYS = (
    Key("seed", 20230211, "train.seed", "Also `validation.seed`. There training is seeded from the clock.", seeds),
    Key(
        "mode",
        "base",
        meaning="`i2v` has no counterpart with this model; `wan_i2v` and others take an image.",
        convert=one_of("", {"base": None}),
    ),
    Key("ckpt_path", None, "backbone.options.weights", "The checkpoint as published.", weights),
    Key("config", "", meaning="The checkpoint's own names and shapes say which network it is.", convert=nothing),
    Key("savefps", 10, meaning="Clips are saved at `video.fps`."),
    Key("n_samples", 1, meaning="In training there is one clip a prompt. `vader generate` takes several seeds."),
    Key("ddim_steps", 50, "sampler.steps", "Steps that do not divide 1000 are one more there."),
    Key("ddim_eta", 1.0, "sampler.eta"),
    Key("height", 512, "video.height"),
    Key("width", 512, "video.width"),
    Key("frames", -1, "video.frames", "-1: left out, which is 16.", frames),
    Key("fps", 24, "video.fps", "What the network is told."),
    Key("unconditional_guidance_scale", 1.0, "sampler.guidance_scale"),
    Key(
        "unconditional_guidance_scale_temporal",
        None,
        meaning="It does nothing there. Leave it out.",
    ),
    Key("cond_input", None, meaning="Of mode `i2v` alone."),
    Key("lr", 2e-4, "train.learning_rate"),
    Key("val_batch_size", 1, "validation.batch_size"),
    Key("num_val_runs", 1, "validation.clips", "Runs x batch size x processes.", clips),
    Key("reward_fn", "aesthetic", "rewards", shared.REWARDS_TEXT, shared.rewards(REWARDS, version)),
    Key(
        "compression_model_path",
        "../assets/compression_reward.pt",
        "rewards[].options.head",
        "Of `compression`; the class there cannot load the published head, the one here can.",
        nothing,
    ),
    Key("target_object", "book", "rewards[].options.object", "Of `detection`, without the full stop.", nothing),
    Key("detector_model", "yolos-base", "rewards[].options.weights", "Of `detection`, with its `engine`.", nothing),
    Key("hps_version", "v2.1", "rewards[].options.version", "Of `hps`.", nothing),
    Key("prompt_fn", "hps_custom", "prompts", shared.PROMPTS_TEXT, shared.prompts("nouns_file", "activities_file")),
    Key("nouns_file", "simple_animals.txt", "prompts.options.nouns", "Of `nouns_activities`.", nothing),
    Key("activities_file", "activities.txt", "prompts.options.activities", "Of `nouns_activities`.", nothing),
    Key("num_train_epochs", 200, "train.steps", "An epoch is 100 micro-steps; the smaller limit counts.", nothing),
    Key("max_train_steps", 10000, "train.steps", "Optimizer steps.", steps),
    shared.backprop("ddim_steps"),
    Key(
        "mixed_precision",
        "fp16",
        "train.mixed_precision",
        "`fp8` has no counterpart; take `bf16`.",
        shared.precision,
    ),
    Key("project_dir", "./project_dir", "output"),
    Key(
        "validation_steps",
        1,
        "train.validate_every",
        "There it is multiplied by the accumulation, so it is here.",
        every("train.validate_every"),
    ),
    Key(
        "checkpointing_steps",
        1,
        "train.checkpoint_every",
        "There it is multiplied by the accumulation, so it is here. `train.keep_checkpoints` keeps few of them.",
        every("train.checkpoint_every"),
    ),
    Key("use_AdamW8bit", False, meaning="The optimizer is AdamW; an adapter's states are small."),
    Key("is_sample_preview", True, "validation.clips", "False: 0, no validation.", nothing),
    replace(shared.FRAMES, convert=shared.frames),
    Key("inference_only", False, meaning="Another command: `vader generate`, `vader evaluate`.", convert=inference),
    Key(
        "lora_ckpt_path",
        "",
        "backbone.adapter.init",
        "The reference's own file is read as it is; its files on the hub are named `hub:owner/name:file`.",
        shared.adapter_file,
    ),
    Key("lora_rank", 8, "backbone.adapter.rank", "alpha stays 8 there whatever the rank, and dropout 0.01."),
    *shared.COMMON,
)

TRAINER = Trainer(
    "VADER-VideoCrafter",
    KEYS,
    {
        "backbone.name": "videocrafter2",
        "backbone.adapter.alpha": 8.0,
        "backbone.adapter.dropout": 0.01,
        "sampler.name": "videocrafter_ddim",
        "train.gradient_checkpointing": True,
    },
    ("scripts/main/train_t2v_lora.py",),
)
