"""Weight files, pipeline folders, adapters."""
