"""Giving a run's adapter to others: a folder in the layout that diffusers loads, with a model card, and its upload."""

from __future__ import annotations

from vader.sharing.folder import write_folder
from vader.sharing.hub import push

__all__ = ["push", "write_folder"]
