"""The settings of VideoX-Fun's reward trainers (aigc-apps/VideoX-Fun), ``scripts/*/train_reward_lora.py``."""

from __future__ import annotations

from dataclasses import replace

from vader.migration.keys import LR_SCHEDULER, Fields, Key, Settings, Trainer, nothing, one_of
from vader.migration.videox_values import (
    ema,
    file,
    frames,
    layers,
    precision,
    reward,
    sampled,
    shift,
    steps,
    validated,
    weights,
    window,
)

WAN_LAYERS = (
    *("to_q", "to_k", "to_v", "to_out.0", "ffn.net.0.proj", "ffn.net.2", "time_proj", "proj_out"),
    *("time_embedder.linear_1", "time_embedder.linear_2", "text_embedder.linear_1", "text_embedder.linear_2"),
)
COGVIDEOX_LAYERS = (
    *("to_q", "to_k", "to_v", "to_out.0", "ff.net.0.proj", "ff.net.2", "norm1.linear", "norm2.linear"),
    *("norm_out.linear", "time_embedding.linear_1", "time_embedding.linear_2", "text_proj", "proj_out"),
)
"""Every linear layer of the denoiser, by the names that diffusers gives them."""

SIZE = "Validation makes clips of the training's size; `vader generate` makes others."
HUB_PUSH = "Nothing is uploaded while training."
CARE = "One process holds the whole frozen model."
EMA = "`train.ema_decay` keeps a moving average of the adapter."

KEYS = (
    Key(
        "pretrained_model_name_or_path",
        "",
        "backbone.options.weights",
        "A pipeline in diffusers' layout: Wan 2.1 T2V and 2.2 T2V are known by name. The `-Fun-` models, which take a "
        "control or a last frame, have none.",
        weights,
    ),
    Key("revision", None, "backbone.options.revision"),
    Key("variant", None, "backbone.options.variant"),
    Key("non_ema_revision", None, meaning="Of no effect with a pipeline's folder."),
    Key(
        "config_path",
        "",
        "sampler.options.shift",
        "The scheduler's shift: 12 for `wan2.2/wan_civitai_t2v.yaml`, else 5. The pipeline's folder has the rest.",
        shift,
    ),
    Key("prediction_type", None, meaning="The pipeline's folder says it."),
    Key("transformer_path", None, meaning="Put the weights into a pipeline's folder."),
    Key("vae_path", None, meaning="Put the weights into a pipeline's folder."),
    Key("prompt_path", "normal", "prompts", "The source `file`: .txt or .jsonl.", file("prompts")),
    Key("validation_prompt_path", "", "validation.prompts", "The source `file`.", file("validation.prompts")),
    Key("validation_prompts", None, "validation.prompts", "Write them to a file, or into the source `list`."),
    Key("validation_batch_size", 1, "validation.clips", "", validated("validation.clips")),
    Key("validation_sample_height", 512, meaning=SIZE),
    Key("validation_sample_width", 512, meaning=SIZE),
    Key("validation_epochs", 5, "train.validate_every", "In optimizer steps.", nothing),
    Key("validation_steps", 2000, "train.validate_every", "", validated("train.validate_every")),
    Key("output_dir", "sd-model-finetuned", "output"),
    Key("logging_dir", "logs", meaning="The logs are in the run's folder."),
    Key("seed", 0, "train.seed"),
    Key("use_came", False, meaning="The optimizer is AdamW."),
    Key("use_ema", False, "train.ema_decay", EMA, ema),
    Key("use_8bit_adam", False, meaning="The optimizer is AdamW; an adapter's states are small."),
    Key("train_batch_size", 16, "train.batch_size"),
    Key("num_train_epochs", 100, "train.steps", "Set the optimizer steps.", nothing),
    Key("max_train_steps", None, "train.steps", "", lambda value, settings: steps(value and int(value), settings)),
    Key("gradient_accumulation_steps", 1, "train.gradient_accumulation"),
    Key("gradient_checkpointing", False, "train.gradient_checkpointing"),
    Key("vae_gradient_checkpointing", False, meaning="Decoders are always recomputed in backward.", convert=nothing),
    Key("learning_rate", 1e-4, "train.learning_rate"),
    Key("scale_lr", False, meaning="Multiply `train.learning_rate` yourself."),
    LR_SCHEDULER,
    Key(
        "lr_warmup_steps",
        500,
        "train.warmup_steps",
        "It counts with a schedule that warms up; `constant` does not there.",
        lambda value, settings: {} if settings["lr_scheduler"] == "constant" else {"train.warmup_steps": value},
    ),
    Key("allow_tf32", False, meaning="torch.backends.cuda.matmul.allow_tf32 is left as it is."),
    Key("dataloader_num_workers", 0, meaning="Prompts need no workers."),
    Key("adam_beta1", 0.9, meaning="AdamW's own: 0.9."),
    Key("adam_beta2", 0.999, meaning="AdamW's own: 0.999."),
    Key("adam_weight_decay", 1e-2, "train.weight_decay"),
    Key("adam_epsilon", 1e-8, meaning="AdamW's own: 1e-8."),
    Key("max_grad_norm", 1.0, "train.max_grad_norm"),
    *(Key(name, None, meaning=HUB_PUSH) for name in ("push_to_hub", "hub_token", "hub_model_id")),
    Key("report_model_info", False, meaning="`metrics.jsonl` has the gradient's norm."),
    Key("mixed_precision", None, "train.mixed_precision", "", precision),
    Key(
        "report_to",
        "tensorboard",
        "trackers",
        "`metrics.jsonl` and the report are always written.",
        one_of("trackers", {"tensorboard": ["tensorboard"], "wandb": ["wandb"], "trackio": ["trackio"], "none": None}),
    ),
    Key("tracker_project_name", "text2image-fine-tune", meaning="The project is called vader."),
    Key("local_rank", -1, meaning="The launcher says it.", convert=nothing),
    Key("checkpointing_steps", 500, "train.checkpoint_every"),
    Key(
        "checkpoints_total_limit",
        None,
        "train.keep_checkpoints",
        "",
        lambda value, _: {"train.keep_checkpoints": int(value)} if value else {},
    ),
    Key("resume_from_checkpoint", None, meaning="`vader train SPEC --resume` goes on from the run's newest."),
    Key("save_state", False, meaning="A checkpoint has all that resuming needs.", convert=nothing),
    Key("rank", 128, "backbone.adapter.rank"),
    Key("network_alpha", 64, "backbone.adapter.alpha", "", lambda value, _: {"backbone.adapter.alpha": float(value)}),
    Key("train_text_encoder", False, meaning="The text encoder carries no adapter."),
    Key("use_deepspeed", False, meaning=CARE),
    Key("use_fsdp", False, meaning=CARE),
    Key(
        "low_vram",
        False,
        "backbone.options.text_encoder_offload",
        "`cpu`: the text encoder stays off the device.",
        lambda value, _: {"backbone.options.text_encoder_offload": "cpu"} if value else {},
    ),
    Key("train_sample_height", 384, "video.height"),
    Key("train_sample_width", 672, "video.width"),
    Key("video_length", 49, "video.frames"),
    *(Key(f"video_sample_{name}", None, meaning="Not read.") for name in ("size", "stride", "n_frames")),
    Key("eta", 0.0, "sampler.eta", "There a flow ignores it."),
    Key("guidance_scale", 6.0, "sampler.guidance_scale"),
    Key("num_inference_steps", 50, "sampler.steps"),
    Key("num_decoded_latents", 3, "frames.mode", "1: frame 0 alone (`mode: index`).", frames),
    Key("num_sampled_frames", None, "frames.mode", "", sampled),
    Key(
        "reward_fn",
        "HPSReward",
        "rewards",
        "`HPSReward`: `hps`. `AestheticReward`: `aesthetic`. `PickScoreReward`: `pickscore`, whose score is 100 times "
        "theirs. `HPSv3Reward` and `VideoAlignReward`, which give no gradient there: `hpsv3`, `videoreward`. "
        "`MPSReward` has no counterpart.",
        reward,
    ),
    Key(
        "reward_fn_kwargs",
        None,
        "rewards[].options",
        "`loss_scale` is the weight, `max_reward` the target.",
        nothing,
    ),
    Key("backprop", False, meaning="Always, with the method `reward_gradient`.", convert=nothing),
    Key("backprop_step_list", None, "gradient.k", "A tail of the steps. Others: `uniform` or `subset`.", nothing),
    Key(
        "backprop_strategy",
        "last",
        "gradient.mode",
        "`last`, `tail` and `uniform` as they are; `random` is `subset`.",
        window,
    ),
    Key(
        "stop_latent_model_input_gradient",
        False,
        "gradient.stop_gradient",
        "Gradient skips through the sampler alone (DRTune).",
    ),
    Key("backprop_random_start_step", 0, "gradient.mode", "`subset` draws from all steps.", nothing),
    Key("backprop_random_end_step", 50, "gradient.mode", "`subset` draws from all steps.", nothing),
    Key("backprop_num_steps", 5, "gradient.k", "Of `tail`, `uniform` and `subset`.", nothing),
)

SKIPPED = Key(
    "lora_skip_name",
    None,
    "backbone.adapter.target_modules",
    "There every linear layer of the denoiser carries the adapter, here those that are named. `ffn` leaves out its "
    "layers. Without the field it is attention alone.",
)
EXPERT = Key(
    "boundary_type",
    "low",
    "backbone.options.experts",
    "Of `wan22`: the expert that carries the adapter. `full` is a model of one expert.",
)


def expert(value: str, _settings: Settings) -> Fields:
    """The expert that carries the adapter."""
    return one_of("backbone.options.experts", {"low": ["low"], "high": ["high"], "full": None})(value, _settings)


FLAGS = frozenset(key.name for key in KEYS if key.default is False) | {"push_to_hub"}
"""Those without a value."""


def _trainer(name: str, backbone: str, scripts: tuple[str, ...], every: tuple[str, ...], *more: Key) -> Trainer:
    keys = (*KEYS, replace(SKIPPED, convert=layers(every)), *more)
    return Trainer(name, keys, {"backbone.name": backbone}, scripts, flags=FLAGS)


WAN = _trainer(
    "VideoX-Fun, Wan 2.1",
    "wan",
    ("scripts/wan2.1/train_reward_lora.py", "scripts/wan2.1_fun/train_reward_lora.py"),
    WAN_LAYERS,
)
WAN22 = _trainer(
    "VideoX-Fun, Wan 2.2",
    "wan22",
    ("scripts/wan2.2/train_reward_lora.py", "scripts/wan2.2_fun/train_reward_lora.py"),
    WAN_LAYERS,
    replace(EXPERT, convert=expert),
)
COGVIDEOX = _trainer(
    "VideoX-Fun, CogVideoX", "cogvideox", ("scripts/cogvideox_fun/train_reward_lora.py",), COGVIDEOX_LAYERS
)
