"""What authors of plugins may import beside ``vader`` and ``vader.testing``; nothing else is public.

The names are resolved when they are first used: ``import vader.sdk`` imports no torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

_PUBLIC = {
    # what a component may declare and be able to do
    "Branch": "vader.protocols:Branch",
    "Prediction": "vader.protocols:Prediction",
    "NativeAdapters": "vader.protocols:NativeAdapters",
    "StartsFromNative": "vader.protocols:StartsFromNative",
    "ExportsNative": "vader.protocols:ExportsNative",
    "Convertible": "vader.protocols:Convertible",
    "MetaBuildable": "vader.protocols:MetaBuildable",
    "HoldsPrompts": "vader.protocols:HoldsPrompts",
    "GivesNotices": "vader.protocols:GivesNotices",
    "CutsPrompts": "vader.protocols:CutsPrompts",
    "beyond": "vader.weights.text_limit:beyond",
    "beyond_room": "vader.weights.text_limit:beyond_room",
    "DecodePlan": "vader.protocols:DecodePlan",
    "DecodesForReward": "vader.protocols:DecodesForReward",
    "MemoryOption": "vader.protocols:MemoryOption",
    "NamedPromptSets": "vader.protocols:NamedPromptSets",
    "ValidatesSpec": "vader.protocols:ValidatesSpec",
    "VariesGuidance": "vader.protocols:VariesGuidance",
    "KnowsNoise": "vader.protocols:KnowsNoise",
    "LimitsAdapters": "vader.protocols:LimitsAdapters",
    "CombinesGuidance": "vader.protocols:CombinesGuidance",
    "CachesConditioning": "vader.protocols:CachesConditioning",
    "ReleasesTextEncoder": "vader.protocols:ReleasesTextEncoder",
    "EncodesClips": "vader.protocols:EncodesClips",
    "GivesTrunk": "vader.protocols:GivesTrunk",
    "LatentReward": "vader.protocols:LatentReward",
    # what a method works with
    "RolloutContext": "vader.methods.context:RolloutContext",
    "Window": "vader.diffusion.gradient:Window",
    "no_gradient": "vader.diffusion.gradient:no_gradient",
    # types of what it is given
    "Frames": "vader.shapes:Frames",
    "Latents": "vader.shapes:Latents",
    "Scores": "vader.shapes:Scores",
    "AdapterSpec": "vader.spec:AdapterSpec",
    "Problem": "vader.errors:Problem",
    "user_path": "vader.paths:user_path",
    "install_command": "vader.installing:install_command",
    # model families
    "Family": "vader.backbones.family:Family",
    "FamilyOptions": "vader.backbones.family:FamilyOptions",
    "Grid": "vader.backbones.family:Grid",
    "pipeline_encode": "vader.backbones.family:pipeline_encode",
    "published_as": "vader.backbones.family:published_as",
    "ExpertOptions": "vader.backbones.family:ExpertOptions",
    "RewardDecoderOptions": "vader.backbones.family:RewardDecoderOptions",
    "call_denoiser": "vader.backbones.family:call_denoiser",
    "Images": "vader.backbones.images:Images",
    "TakesImage": "vader.backbones.images:TakesImage",
    "first_latents": "vader.backbones.images:first_latents",
    "pixels": "vader.backbones.images:pixels",
    "FamilyBackbone": "vader.backbones.backbone:FamilyBackbone",
    "Parts": "vader.backbones.parts:Parts",
    "CausalPrefix": "vader.backbones.decoding:CausalPrefix",
    "WholeClip": "vader.backbones.decoding:WholeClip",
    "PerFrame": "vader.backbones.decoding:PerFrame",
    "by_factor": "vader.backbones.decoding:by_factor",
    "decode_whole": "vader.backbones.decoding:decode_whole",
    "by_statistics": "vader.backbones.decoding:by_statistics",
    "encoded_by_factor": "vader.backbones.decoding:encoded_by_factor",
    "encoded_by_statistics": "vader.backbones.decoding:encoded_by_statistics",
    "Layers": "vader.backbones.layers:Layers",
    "frame_indices": "vader.backbones.decoding:frame_indices",
    "diffusion_schedule": "vader.backbones.schedules:diffusion_schedule",
    "flow_schedule": "vader.backbones.schedules:flow_schedule",
    "even_flow_schedule": "vader.backbones.schedules:even_flow_schedule",
    "shift_by_size": "vader.backbones.schedules:shift_by_size",
    "recompute_layers": "vader.backbones.checkpointing:recompute_layers",
    "TEXT_WIDTH": "vader.backbones.tiny:TEXT_WIDTH",
    "byte_tokenizer": "vader.backbones.tiny:byte_tokenizer",
    "byte_vocabulary": "vader.backbones.tiny:byte_vocabulary",
    "tiny_t5": "vader.backbones.tiny:tiny_t5",
    "tiny_umt5": "vader.backbones.tiny:tiny_umt5",
    # frames, samplers, prompts
    "from_signed": "vader.diffusion.frames:from_signed",
    "to_uint8": "vader.diffusion.frames:to_uint8",
    "flow_step": "vader.diffusion.samplers.flow_euler:flow_step",
    "draw_evenly": "vader.prompts:draw_evenly",
    "draw_weighted": "vader.prompts:draw_weighted",
    "read_prompts": "vader.prompts.file:read_prompts",
    "read_weighted": "vader.prompts.file:read_weighted",
    # files of weights
    "PICKLED": "vader.weights.files:PICKLED",
    "SAFETENSORS": "vader.weights.files:SAFETENSORS",
    "check_safetensors": "vader.weights.files:check_safetensors",
    "first_line": "vader.weights.files:first_line",
    "hub_file": "vader.weights.files:hub_file",
    "hub_folder": "vader.weights.files:hub_folder",
    "is_hub_id": "vader.weights.files:is_hub_id",
    "load_pickled": "vader.weights.files:load_pickled",
    "shown": "vader.weights.files:shown",
    "unreadable": "vader.weights.files:unreadable",
    "Difference": "vader.weights.compare:Difference",
    "compare_shapes": "vader.weights.compare:compare_shapes",
    "shapes_of": "vader.weights.compare:shapes_of",
    "Conversion": "vader.weights.conversion:Conversion",
    "INDEX": "vader.weights.pipeline_folder:INDEX",
    "PipelineFolder": "vader.weights.pipeline_folder:PipelineFolder",
    # networks without weights
    "Place": "vader.weights.meta_init:Place",
    "MetaTokens": "vader.weights.meta_init:MetaTokens",
    "meta_network": "vader.weights.meta_init:meta_network",
    # adapters
    "PEFT_CONFIG": "vader.weights.lora:PEFT_CONFIG",
    "read_adapter": "vader.weights.lora:read",
    "write_adapter": "vader.weights.lora:write",
}
"""Name -> ``module:attribute``."""

__all__ = [*_PUBLIC]

if TYPE_CHECKING:
    import vader.weights.lora
    from vader.backbones.backbone import FamilyBackbone as FamilyBackbone
    from vader.backbones.checkpointing import recompute_layers as recompute_layers
    from vader.backbones.decoding import CausalPrefix as CausalPrefix
    from vader.backbones.decoding import PerFrame as PerFrame
    from vader.backbones.decoding import WholeClip as WholeClip
    from vader.backbones.decoding import by_factor as by_factor
    from vader.backbones.decoding import by_statistics as by_statistics
    from vader.backbones.decoding import decode_whole as decode_whole
    from vader.backbones.decoding import encoded_by_factor as encoded_by_factor
    from vader.backbones.decoding import encoded_by_statistics as encoded_by_statistics
    from vader.backbones.decoding import frame_indices as frame_indices
    from vader.backbones.family import ExpertOptions as ExpertOptions
    from vader.backbones.family import Family as Family
    from vader.backbones.family import FamilyOptions as FamilyOptions
    from vader.backbones.family import Grid as Grid
    from vader.backbones.family import RewardDecoderOptions as RewardDecoderOptions
    from vader.backbones.family import call_denoiser as call_denoiser
    from vader.backbones.family import pipeline_encode as pipeline_encode
    from vader.backbones.family import published_as as published_as
    from vader.backbones.images import Images as Images
    from vader.backbones.images import TakesImage as TakesImage
    from vader.backbones.images import first_latents as first_latents
    from vader.backbones.images import pixels as pixels
    from vader.backbones.layers import Layers as Layers
    from vader.backbones.parts import Parts as Parts
    from vader.backbones.schedules import diffusion_schedule as diffusion_schedule
    from vader.backbones.schedules import even_flow_schedule as even_flow_schedule
    from vader.backbones.schedules import flow_schedule as flow_schedule
    from vader.backbones.schedules import shift_by_size as shift_by_size
    from vader.backbones.tiny import TEXT_WIDTH as TEXT_WIDTH
    from vader.backbones.tiny import byte_tokenizer as byte_tokenizer
    from vader.backbones.tiny import byte_vocabulary as byte_vocabulary
    from vader.backbones.tiny import tiny_t5 as tiny_t5
    from vader.backbones.tiny import tiny_umt5 as tiny_umt5
    from vader.diffusion.frames import from_signed as from_signed
    from vader.diffusion.frames import to_uint8 as to_uint8
    from vader.diffusion.gradient import Window as Window
    from vader.diffusion.gradient import no_gradient as no_gradient
    from vader.diffusion.samplers.flow_euler import flow_step as flow_step
    from vader.errors import Problem as Problem
    from vader.installing import install_command as install_command
    from vader.methods.context import RolloutContext as RolloutContext
    from vader.paths import user_path as user_path
    from vader.prompts import draw_evenly as draw_evenly
    from vader.prompts import draw_weighted as draw_weighted
    from vader.prompts.file import read_prompts as read_prompts
    from vader.prompts.file import read_weighted as read_weighted
    from vader.protocols import Branch as Branch
    from vader.protocols import CachesConditioning as CachesConditioning
    from vader.protocols import CombinesGuidance as CombinesGuidance
    from vader.protocols import Convertible as Convertible
    from vader.protocols import CutsPrompts as CutsPrompts
    from vader.protocols import DecodePlan as DecodePlan
    from vader.protocols import DecodesForReward as DecodesForReward
    from vader.protocols import EncodesClips as EncodesClips
    from vader.protocols import ExportsNative as ExportsNative
    from vader.protocols import GivesNotices as GivesNotices
    from vader.protocols import GivesTrunk as GivesTrunk
    from vader.protocols import HoldsPrompts as HoldsPrompts
    from vader.protocols import KnowsNoise as KnowsNoise
    from vader.protocols import LatentReward as LatentReward
    from vader.protocols import LimitsAdapters as LimitsAdapters
    from vader.protocols import MemoryOption as MemoryOption
    from vader.protocols import MetaBuildable as MetaBuildable
    from vader.protocols import NamedPromptSets as NamedPromptSets
    from vader.protocols import NativeAdapters as NativeAdapters
    from vader.protocols import Prediction as Prediction
    from vader.protocols import ReleasesTextEncoder as ReleasesTextEncoder
    from vader.protocols import StartsFromNative as StartsFromNative
    from vader.protocols import ValidatesSpec as ValidatesSpec
    from vader.protocols import VariesGuidance as VariesGuidance
    from vader.shapes import Frames as Frames
    from vader.shapes import Latents as Latents
    from vader.shapes import Scores as Scores
    from vader.spec import AdapterSpec as AdapterSpec
    from vader.weights.compare import Difference as Difference
    from vader.weights.compare import compare_shapes as compare_shapes
    from vader.weights.compare import shapes_of as shapes_of
    from vader.weights.conversion import Conversion as Conversion
    from vader.weights.files import PICKLED as PICKLED
    from vader.weights.files import SAFETENSORS as SAFETENSORS
    from vader.weights.files import check_safetensors as check_safetensors
    from vader.weights.files import first_line as first_line
    from vader.weights.files import hub_file as hub_file
    from vader.weights.files import hub_folder as hub_folder
    from vader.weights.files import is_hub_id as is_hub_id
    from vader.weights.files import load_pickled as load_pickled
    from vader.weights.files import shown as shown
    from vader.weights.files import unreadable as unreadable
    from vader.weights.lora import PEFT_CONFIG as PEFT_CONFIG
    from vader.weights.meta_init import MetaTokens as MetaTokens
    from vader.weights.meta_init import Place as Place
    from vader.weights.meta_init import meta_network as meta_network
    from vader.weights.pipeline_folder import INDEX as INDEX
    from vader.weights.pipeline_folder import PipelineFolder as PipelineFolder
    from vader.weights.text_limit import beyond as beyond
    from vader.weights.text_limit import beyond_room as beyond_room

    read_adapter = vader.weights.lora.read
    write_adapter = vader.weights.lora.write


if not TYPE_CHECKING:  # who checks types sees the names above, and no others

    def __getattr__(name: str) -> Any:
        if name not in _PUBLIC:
            raise AttributeError(f"module 'vader.sdk' has no attribute {name!r}")
        module, _, attribute = _PUBLIC[name].partition(":")
        return getattr(importlib.import_module(module), attribute)


def __dir__() -> list[str]:
    return sorted(__all__)
