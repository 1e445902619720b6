"""What plugin authors may import beside ``vader`` and ``vader.testing``."""
