"""The memory of a training run, counted from shapes: ``vader estimate``."""

from vader.estimating.estimate import Estimate as Estimate
from vader.estimating.estimate import estimate as estimate
from vader.estimating.knobs import Saving as Saving
from vader.estimating.knobs import savings as savings
