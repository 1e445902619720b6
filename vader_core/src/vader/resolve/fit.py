"""Whether the components of a spec fit it and one another, by what they declare of themselves."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict

from vader.backbones.images import unwanted
from vader.errors import blame
from vader.protocols import DecodePlan, DecodesForReward, Prompt, ValidatesSpec, Video
from vader.resolve.components import ResolvedComponent
from vader.spec import RewardSpec, RunSpec
from vader.spec.consistency import Finding


def sampler_fits(spec: RunSpec, sampler: ResolvedComponent, backbone: ResolvedComponent) -> Iterator[Finding]:
    """It integrates what the backbone predicts, and knows what to do with ``eta``."""
    able, made = sampler.capability("predictions"), backbone.capability("predictions")
    if not set(able) & set(made):
        message = (
            f"{sampler.name!r} integrates {', '.join(able)}, "
            f"but backbone {backbone.name!r} predicts {', '.join(made)}. "
            f"Use {backbone.capability('default_sampler')!r}, or leave sampler.name out."
        )
        yield "sampler.name", message
    if spec.sampler.eta > 0 and not sampler.capability("stochastic"):
        yield "sampler.eta", f"{sampler.name!r} adds no noise; expected eta 0, found {spec.sampler.eta}."


def clip_fits(spec: RunSpec, backbone: ResolvedComponent, video: Video) -> Iterator[Finding]:
    """The clip has the frame that is decoded, and the backbone can decode and recompute as it is to."""
    if spec.frames.index is not None and spec.frames.index >= video.frames:
        expected = f"Expected 0 to {video.frames - 1} (the clip has {video.frames} frames)."
        yield "frames.index", f"{spec.frames.index} is past the last frame. {expected}"
    yield from _decodes(spec, backbone)
    if spec.train.gradient_checkpointing and not backbone.capability("gradient_checkpointing"):
        yield "train.gradient_checkpointing", f"backbone {backbone.name!r} has none; set it to false."


def sharding_fits(spec: RunSpec, backbone: ResolvedComponent, method: ResolvedComponent | None) -> Iterator[Finding]:
    """Where weights are shared out, all processes call the same expert, and its weights are not elsewhere too."""
    if spec.train.sharding.strategy == "none":
        return
    if getattr(backbone.options, "expert_offload", None) == "cpu":
        message = "weights that are shared out cannot lie on shelves too. Use keep, or train.sharding.offload: cpu."
        yield "backbone.options.expert_offload", message
    if getattr(backbone.options, "quantize", "none") != "none":
        message = "quantised weights are not shared out. Use none, or train.sharding.strategy: none."
        yield "backbone.options.quantize", message
    if method is not None and method.name == "dpo" and backbone.capability("experts"):
        message = (
            f"dpo draws a timestep for each pair of clips, so processes would call different experts of "
            f"{backbone.name!r}, whose weights they share. Use another method, or strategy: none."
        )
        yield "train.sharding.strategy", message


def expert_fits(backbone: ResolvedComponent, expert: str | None, path: str) -> Iterator[Finding]:
    """An adapter that is fused says which expert it is for, where there are experts, and only there."""
    experts = backbone.capability("experts")
    if expert not in (experts or (None,)):
        wanted = " or ".join(map(repr, experts)) if experts else "null: it has no experts"
        yield path, f"backbone {backbone.name!r} cannot fuse an adapter into {expert!r}; expected {wanted}."


def prompts_fit(backbone: ResolvedComponent, prompts: Iterable[Prompt], path: str) -> Iterator[Finding]:
    """The backbone can make clips of every prompt: each has an image where one is needed, and none where none is."""
    wrong = list(filter(None, (unwanted(backbone.capability("takes_image"), prompt) for prompt in prompts)))
    if wrong:
        more = f" And so {len(wrong) - 1} more." if len(wrong) > 1 else ""
        yield path, f"backbone {backbone.name!r}: {wrong[0]}{more}"


def _decodes(spec: RunSpec, backbone: ResolvedComponent) -> Iterator[Finding]:
    """Whatever a spec asks of the decoder, the backbone can do."""
    able = backbone.ability(DecodesForReward)
    modes = able.decode_modes(backbone.options) if able is not None else ()
    for name, default in asdict(DecodePlan()).items():
        value = getattr(spec.frames, f"decode_{name}")
        if value != default and name not in modes:
            message = f"the decoder of backbone {backbone.name!r} has no such mode; expected {default}, found {value}."
            yield f"frames.decode_{name}", f"{message} Remove it."


def rewards_fit(
    spec: RunSpec,
    rewards: Mapping[str, ResolvedComponent],
    method: ResolvedComponent | None,
    video: Video | None,
) -> Iterator[Finding]:
    """There is something to learn from, its gradient reaches the frames where it must, and frames suffice."""
    if not spec.rewards and not rewards:
        yield "rewards", "no reward to train on. Add at least one, such as rewards: [{name: ...}]."
    if spec.rewards and len(rewards) == len(spec.rewards) and all(reward.weight == 0 for reward in spec.rewards):
        yield "rewards", "every weight is 0, so nothing would be learnt. Give one a weight above 0."
    for index, reward in enumerate(spec.rewards):
        part = rewards.get(reward.key)
        if part is None:
            continue
        if method and method.capability("needs_gradient") and not part.capability("differentiable"):
            message = (
                f"{reward.name!r} is not differentiable, and method {method.name!r} needs its gradient. "
                "Use it in validation.rewards, or take a method without gradients."
            )
            yield f"rewards.{index}.name", message
        yield from _input_fits(f"rewards.{index}", reward, part, method)
        if video is not None:
            yield from _frames_suffice(spec, f"rewards.{index}.name", part, video)


def _input_fits(
    path: str, spec: RewardSpec, reward: ResolvedComponent, method: ResolvedComponent | None
) -> Iterator[Finding]:
    """It sees what the method, another process or a contrast can give it."""
    latents = reward.capability("input") == "latents"
    if method and method.capability("needs_latents") and not latents:
        message = f"method {method.name!r} ends rollouts at noisy latents, and {reward.name!r} scores frames. "
        yield f"{path}.name", message + "Use a reward that scores latents, such as 'latent', or reward_gradient."
    if latents and spec.isolate is not None:
        yield f"{path}.isolate", f"{reward.name!r} scores latents, which stay in this process. Remove isolate."
    if spec.contrast is not None and (latents or not reward.capability("needs_prompt")):
        message = f"{reward.name!r} does not read the prompt's text, so phrases in it change nothing. Remove contrast."
        yield f"{path}.contrast", message


def _frames_suffice(spec: RunSpec, path: str, reward: ResolvedComponent, video: Video) -> Iterator[Finding]:
    from vader.diffusion.frames import fewest

    mode = spec.frames.mode
    if (spec.frames.index or 0) >= video.frames:
        return
    needed, given = reward.capability("frames"), fewest(mode, video.frames)
    if given < needed:
        yield path, f"{reward.name!r} needs {needed} frames; frames.mode {mode} gives {given}. Use mode: all."


def method_fits(
    spec: RunSpec, method: ResolvedComponent, sampler: ResolvedComponent, backbone: ResolvedComponent | None
) -> Iterator[Finding]:
    """The backbone predicts what the method needs; and what the method itself says of the spec."""
    if backbone is not None and method.capability("needs_flow"):
        made = backbone.capability("predictions")
        if "flow" not in made:
            message = f"method {method.name!r} needs a backbone that predicts flow; {backbone.name!r} predicts "
            yield "method.name", f"{message}{', '.join(made)}. Take reward_gradient, nft or awm."
    able = method.ability(ValidatesSpec)
    if able is not None:
        with blame(f"method {method.name!r}, judging a spec,"):
            found = list(able.validate(method.options, spec, sampler.component))
        yield from found
