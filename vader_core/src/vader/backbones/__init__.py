"""The seam of model families."""
