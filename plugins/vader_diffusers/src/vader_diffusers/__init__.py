"""Modern text-to-video models of diffusers as backbones of vader, one file a model family."""
