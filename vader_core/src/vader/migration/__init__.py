"""From other trainers to a spec: tables of their settings, which translate files and make pages of the docs."""
