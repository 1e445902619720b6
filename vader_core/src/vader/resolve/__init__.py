"""From a spec and the registry to live components."""
