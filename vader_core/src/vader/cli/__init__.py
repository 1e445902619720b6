"""The ``vader`` command."""
