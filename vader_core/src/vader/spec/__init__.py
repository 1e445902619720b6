"""The run spec: its models, how a user's YAML becomes one, and what is said of a wrong one. Imports no torch."""

from vader.spec.models import FREE_ON_RESUME as FREE_ON_RESUME
from vader.spec.models import AdapterSpec as AdapterSpec
from vader.spec.models import ComponentSpec as ComponentSpec
from vader.spec.models import EarlyStopSpec as EarlyStopSpec
from vader.spec.models import GradientSpec as GradientSpec
from vader.spec.models import IsolateSpec as IsolateSpec
from vader.spec.models import RewardSpec as RewardSpec
from vader.spec.models import RolloutSpec as RolloutSpec
from vader.spec.models import RunSpec as RunSpec
from vader.spec.models import ScoreSpec as ScoreSpec
from vader.spec.models import TrainSpec as TrainSpec
from vader.spec.models import ValidationSpec as ValidationSpec
from vader.spec.models import differences as differences
from vader.spec.models import load_run_spec as load_run_spec
from vader.spec.options import Options as Options
