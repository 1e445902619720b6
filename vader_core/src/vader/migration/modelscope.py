"""The settings of VADER-ModelScope, ``train_t2v_lora.py``: ``config_t2v/config.yaml``, and overrides of hydra."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

from vader.migration import shared
from vader.migration.keys import LR_SCHEDULER, Fields, Key, NoCounterpart, Settings, Trainer, nothing, one_of

LAYERS = (
    *("conv_in", "conv_out", "time_embedding.linear_1", "time_embedding.linear_2", "proj_in", "proj_out"),
    *("to_q", "to_k", "to_v", "to_out.0", "ff.net.0.proj", "ff.net.2"),
    *("resnets.0.conv1", "resnets.0.conv2", "resnets.1.conv1", "resnets.1.conv2", "resnets.2.conv1", "resnets.2.conv2"),
    *("conv_shortcut", "time_emb_proj", "conv1.2", "conv2.3", "conv3.3", "conv4.3"),
    *("downsamplers.0.conv", "upsamplers.0.conv"),
)
"""Every linear and convolutional layer of the UNet, which the trainer gives an adapter."""

DATA = "No clips are read: the trainer makes its own, and does not read this either."
PUBLISHED = {"damo-vilab/text-to-video-ms-1.7b": "ali-vilab/text-to-video-ms-1.7b"}
"""The repository's name then -> now."""


def steps(value: int, settings: Settings) -> Fields:
    """Micro-steps, which the trainer counts; an epoch is 100 of them."""
    micro = min(value, settings["num_train_epochs"] * 100)
    return {"train.steps": max(1, math.ceil(micro / settings["gradient_accumulation_steps"]))}


def layers(value: Any, _settings: Settings) -> Fields:
    """The layers that carry the adapter."""
    if list(value) != ["UNet3DConditionModel"]:
        raise NoCounterpart("name the layers in backbone.adapter.target_modules; every layer is translated.")
    return {"backbone.adapter.target_modules": list(LAYERS)}


def clips(value: int, settings: Settings) -> Fields:
    """Clips of a validation; none without previews."""
    return {"validation.clips": value if settings["validation_data.sample_preview"] else 0}


def sampler(value: str, _settings: Settings) -> Fields:
    """DDIM, or DPM-Solver++ with the checkpoint's settings."""
    if value == "dpm_multistep":
        return {"sampler.name": "diffusers", "sampler.options.scheduler": "DPMSolverMultistepScheduler"}
    return one_of("sampler.name", {"ddim": "ddim"})(value, _settings)


def only(value: bool, _settings: Settings) -> Fields:
    """A run that only validates is another command."""
    if value:
        raise NoCounterpart("make clips with 'vader generate', or compare with the base model by 'vader evaluate'.")
    return {}


def version(_settings: Settings) -> str:
    """Of HPS: the trainer knows one."""
    return "v2.0"


def adapter(value: str, settings: Settings) -> Fields:
    """A file to begin with."""
    if value:
        raise NoCounterpart("convert it first: vader convert adapter FILE FOLDER --backbone modelscope.")
    return {}


def seeds(value: int, _settings: Settings) -> Fields:
    """One seed for training and validation."""
    return {"train.seed": value, "validation.seed": value}


TEXT_LORA = (
    "No gradient ever reaches it there, so it is left out; `backbone.options.text_adapter: true` trains one here."
)

KEYS = (
    Key(
        "pretrained_model_path",
        "damo-vilab/text-to-video-ms-1.7b",
        "backbone.options.weights",
        "The repository is called `ali-vilab/text-to-video-ms-1.7b` now.",
        lambda value, _: {"backbone.options.weights": PUBLISHED.get(value, value)},
    ),
    Key(
        "scheduler_type",
        "dpm_multistep",
        "sampler.name",
        "`dpm_multistep`: `diffusers` with `scheduler: DPMSolverMultistepScheduler`. `ddim`: `ddim`.",
        sampler,
    ),
    Key("lora_path", "", "backbone.adapter.init", "Convert it first: `vader convert adapter`.", adapter),
    Key("output_dir", "./media_vis", "output"),
    Key("only_val", False, meaning="Another command: `vader generate`, `vader evaluate`.", convert=only),
    Key("num_only_val_itrs", 100000, meaning="Of `only_val`.", convert=nothing),
    Key("load_videodataset", False, meaning=DATA),
    Key(
        "decode_og",
        False,
        "gradient.original",
        "Decode the predicted clean latents of the window's first step. There it fails with DPM-Solver.",
    ),
    Key("num_train_epochs", 200, "train.steps", "An epoch is 100 micro-steps; the smaller limit counts.", nothing),
    Key("val_batch_size", 4, "validation.clips", "Also `validation.batch_size` where memory asks for it.", clips),
    shared.backprop("validation_data.num_inference_steps"),
    Key(
        "prompt_fn",
        "nouns_activities",
        "prompts",
        shared.PROMPTS_TEXT,
        shared.prompts("prompt_fn_kwargs.nouns_file", "prompt_fn_kwargs.activities_file"),
    ),
    Key("prompt_fn_kwargs.nouns_file", "simple_animals.txt", "prompts.options.nouns", "", nothing),
    Key("prompt_fn_kwargs.activities_file", "activities.txt", "prompts.options.activities", "", nothing),
    replace(
        shared.FRAMES, meaning="`-1`: `random`. A number: `index`. `all`, `alt` as they are.", convert=shared.frames
    ),
    Key(
        "reward_fn",
        "aesthetic",
        "rewards",
        "`aesthetic`: weight 0.1, target 10. `hps`: v2.0. `actpred`: `action`. Preprocessing is the reference's.",
        shared.rewards(("aesthetic", "hps", "actpred"), version),
    ),
    Key("scale_lr", False, meaning="It changes nothing there: what it computes is not used."),
    Key("dataset_types", None, meaning=DATA, convert=nothing),
    Key("offset_noise_strength", 0.1, meaning=DATA, convert=nothing),
    Key("use_offset_noise", False, meaning=DATA),
    Key(
        "rescale_schedule",
        False,
        "backbone.options.zero_terminal_snr",
        "There it changes the betas alone, which the sampler does not read.",
    ),
    Key("extend_dataset", False, meaning=DATA),
    Key("cache_latents", True, meaning=DATA, convert=nothing),
    Key("cached_latent_dir", None, meaning=DATA),
    Key("train_text_encoder", False, meaning="Frozen weights stay frozen; `backbone.options.text_adapter` adapts it."),
    Key(
        "lora_version",
        "cloneofsimo",
        "backbone.adapter",
        "`cloneofsimo`: alpha is the rank, which is scale 1. `stable_lora` has no counterpart.",
        one_of("", {"cloneofsimo": None}),
    ),
    Key("lora_bias", "none", meaning="An adapter has no biases."),
    Key("adam_beta1", 0.9, meaning="AdamW's own: 0.9."),
    Key("adam_beta2", 0.999, meaning="AdamW's own: 0.999."),
    Key("adam_epsilon", 1e-8, meaning="AdamW's own: 1e-8."),
    Key("use_unet_lora", True, "backbone.adapter", "Always.", one_of("", {True: None})),
    Key("use_text_lora", True, "backbone.options.text_adapter", TEXT_LORA, nothing),
    Key("lora_unet_dropout", 0.1, "backbone.adapter.dropout", "There it is not read."),
    Key("lora_text_dropout", 0.1, meaning=TEXT_LORA, convert=nothing),
    LR_SCHEDULER,
    Key("lr_warmup_steps", 0, "train.warmup_steps"),
    Key("save_lora_for_webui", True, meaning="`vader convert adapter` writes other formats.", convert=nothing),
    Key("only_lora_for_webui", False, meaning="`vader convert adapter` writes other formats."),
    Key("save_pretrained_model", True, meaning="The frozen model is not copied; the adapter is kept.", convert=nothing),
    Key(
        "unet_lora_modules",
        ["UNet3DConditionModel"],
        "backbone.adapter.target_modules",
        "Every linear and convolutional layer, by name. Left out, it is attention alone, a quarter of it.",
        layers,
    ),
    Key("text_encoder_lora_modules", None, meaning=TEXT_LORA, convert=nothing),
    Key("lora_rank", 16, "backbone.adapter.rank"),
    *(
        Key(f"train_data.{name}", None, meaning=DATA, convert=nothing)
        for name in (
            *("width", "height", "use_bucketing", "sample_start_idx", "fps", "frame_step", "n_sample_frames"),
            *("single_video_path", "single_video_prompt", "fallback_prompt", "path", "json_path", "image_dir"),
            "single_img_prompt",
        )
    ),
    Key("validation_data.prompt", None, meaning="Not read: validation draws from the prompt source.", convert=nothing),
    Key("validation_data.sample_preview", True, "validation.clips", "False: 0, no validation.", nothing),
    Key("validation_data.num_frames", 16, "video.frames"),
    Key("validation_data.width", 384, "video.width"),
    Key("validation_data.height", 384, "video.height"),
    Key("validation_data.num_inference_steps", 25, "sampler.steps"),
    Key(
        "validation_data.cpu_step_cutoff",
        0,
        "gradient.recompute",
        "It keeps activations of early steps on the CPU; here steps are recomputed, so that K costs no memory.",
        nothing,
    ),
    Key("validation_data.guidance_scale", 9.0, "sampler.guidance_scale"),
    Key("learning_rate", 2e-4, "train.learning_rate"),
    Key("adam_weight_decay", 0.0, "train.weight_decay"),
    Key("extra_unet_params", None, meaning="One learning rate for all layers."),
    Key("extra_text_encoder_params", None, meaning="One learning rate for all layers."),
    Key("max_train_steps", 10000, "train.steps", "It counts micro-steps: divided by the accumulation.", steps),
    Key("checkpointing_steps", 1, "train.checkpoint_every"),
    Key("validation_steps", 1, "train.validate_every"),
    Key(
        "trainable_modules", None, meaning="Frozen weights stay frozen: the trainer freezes them too.", convert=nothing
    ),
    Key("trainable_text_modules", None, meaning="Frozen weights stay frozen.", convert=nothing),
    Key("seed", 64, "train.seed", "Also `validation.seed`.", seeds),
    Key("mixed_precision", "fp16", "train.mixed_precision", "", shared.precision),
    Key("use_8bit_adam", False, meaning="The optimizer is AdamW; an adapter's states are small."),
    Key("gradient_checkpointing", True, "train.gradient_checkpointing"),
    Key("text_encoder_gradient_checkpointing", False, meaning="With `text_adapter` the steps are recomputed with it."),
    Key("enable_xformers_memory_efficient_attention", False, "backbone.options.xformers"),
    Key("enable_torch_2_attn", True, meaning="Always.", convert=nothing),
    Key("hydra.output_subdir", None, meaning="A run's folder keeps its own spec.", convert=nothing),
    Key("hydra.run.dir", None, meaning="The folder is `output`.", convert=nothing),
    *shared.COMMON,
)

TRAINER = Trainer(
    "VADER-ModelScope",
    KEYS,
    {"backbone.name": "modelscope"},
    ("train_t2v_lora.py",),
    style="overrides",
)
