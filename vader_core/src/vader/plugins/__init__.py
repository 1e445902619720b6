"""Discovery, registry and selection of plugins."""
