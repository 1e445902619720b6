"""Built-in samplers, registered through the same entry points as anyone's."""
