"""The shapes world: a tiny text-to-video world with an exact evaluator and an embedded Wan model."""
