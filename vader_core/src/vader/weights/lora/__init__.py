"""LoRA adapters (Hu et al. 2021, arXiv 2106.09685) through peft: inject, switch, fuse, save, load, in any format."""

from vader.weights.lora.adapter import Adapter as Adapter
from vader.weights.lora.formats import FORMATS as FORMATS
from vader.weights.lora.formats import LayerNames as LayerNames
from vader.weights.lora.fuse import fuse as fuse
from vader.weights.lora.inject import inject as inject
from vader.weights.lora.load import load_into as load_into
from vader.weights.lora.load import locate as locate
from vader.weights.lora.load import read as read
from vader.weights.lora.load import restore as restore
from vader.weights.lora.load import spec_of as spec_of
from vader.weights.lora.load import trainable as trainable
from vader.weights.lora.merged import merged as merged
from vader.weights.lora.names import DIFFUSERS_FILE as DIFFUSERS_FILE
from vader.weights.lora.names import DIFFUSERS_FILE_2 as DIFFUSERS_FILE_2
from vader.weights.lora.names import PEFT_CONFIG as PEFT_CONFIG
from vader.weights.lora.names import PEFT_FILE as PEFT_FILE
from vader.weights.lora.save import save as save
from vader.weights.lora.save import state_dict as state_dict
from vader.weights.lora.save import write as write
from vader.weights.lora.save import write_file as write_file
from vader.weights.lora.switch import dropouts as dropouts
from vader.weights.lora.switch import layers_of as layers_of
from vader.weights.lora.switch import set_scale as set_scale
from vader.weights.lora.switch import switched_off as switched_off
