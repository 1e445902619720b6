"""The run spec: its models, how a user's YAML becomes one, and what is said of a wrong one. Imports no torch."""

from vader.spec.components import AdapterSpec as AdapterSpec
from vader.spec.components import ComponentSpec as ComponentSpec
from vader.spec.components import IsolateSpec as IsolateSpec
from vader.spec.components import RewardSpec as RewardSpec
from vader.spec.components import ScoreSpec as ScoreSpec
from vader.spec.options import Options as Options
from vader.spec.rollout import GradientSpec as GradientSpec
from vader.spec.rollout import RolloutSpec as RolloutSpec
from vader.spec.run import FREE_ON_RESUME as FREE_ON_RESUME
from vader.spec.run import RunSpec as RunSpec
from vader.spec.run import differences as differences
from vader.spec.train import EarlyStopSpec as EarlyStopSpec
from vader.spec.train import TrainSpec as TrainSpec
from vader.spec.validation import HackingSpec as HackingSpec
from vader.spec.validation import ValidationSpec as ValidationSpec
