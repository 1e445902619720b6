"""Training, generating, evaluating; what a run keeps on disk."""
