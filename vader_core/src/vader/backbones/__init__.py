"""The seam of model families: a family is a description, and everything else about a diffusers pipeline is here."""
