"""The memory of a training run, counted from shapes: ``vader estimate``."""

from vader.estimation.estimate import Estimate as Estimate
from vader.estimation.estimate import estimate as estimate
from vader.estimation.fitting import Fit as Fit
from vader.estimation.fitting import fit_memory as fit_memory
from vader.estimation.suggestions import Change as Change
from vader.estimation.suggestions import Saving as Saving
from vader.estimation.suggestions import savings as savings
