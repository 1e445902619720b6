"""What other distributions of the project offer, so that a missing component can be named with its installation."""

from __future__ import annotations

OFFERED: dict[str, dict[str, tuple[str, ...]]] = {
    "vader-plugin-shapes": {
        "backbone": ("shapes", "shapes_i2v"),
        "reward": ("shapes_accuracy", "shapes_alignment", "shapes_colourfulness", "shapes_motion", "shapes_sharpness"),
        "prompts": ("shapes",),
    },
    "vader-plugin-diffusers": {
        "backbone": (
            "cogvideox",
            "cogvideox_i2v",
            "hunyuan_video",
            "hunyuan_video15",
            "ltx",
            "mochi",
            "skyreels_v2",
            "wan",
            "wan22",
            "wan22_i2v",
            "wan22_ti2v",
            "wan_i2v",
        ),
        "sampler": ("cogvideox_dpm",),
    },
    "vader-plugin-modelscope": {"backbone": ("modelscope",)},
    "vader-plugin-videocrafter": {"backbone": ("videocrafter2",), "sampler": ("videocrafter_ddim",)},
    "vader-plugin-opensora": {"backbone": ("opensora",), "sampler": ("opensora_rflow",)},
    "vader-plugin-rewards": {
        "reward": (
            "action",
            "aesthetic",
            "clip_text",
            "compression",
            "detection",
            "flow",
            "hps",
            "hps_package",
            "hpsv3",
            "image_fidelity",
            "imagenet",
            "imagereward",
            "jpeg_size",
            "motion",
            "nsfw",
            "ocr_text",
            "pickscore",
            "temporal_consistency",
            "video_text",
            "videoreward",
            "vjepa",
            "vlm_question",
            "weather",
        ),
        "prompts": ("nouns_activities", "set"),
    },
}
"""Distribution -> kind -> names."""

NOT_INSTALLED: dict[str, dict[str, str]] = {
    kind: {name: distribution for distribution, offered in OFFERED.items() for name in offered.get(kind, ())}
    for kind in ("backbone", "reward", "sampler", "prompts")
}
"""Kind -> name -> the distribution that offers it."""
