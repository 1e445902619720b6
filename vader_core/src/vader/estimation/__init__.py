"""The memory of a training run, counted from shapes: ``vader estimate``."""

from vader.estimation.estimate import Estimate as Estimate
from vader.estimation.estimate import estimate as estimate
from vader.estimation.suggestions import Saving as Saving
from vader.estimation.suggestions import savings as savings
