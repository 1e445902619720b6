"""Methods: how the scores of clips become a loss."""
