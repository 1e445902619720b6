"""VideoCrafter2 text-to-video (Chen et al. 2024, arXiv 2401.09047) as a backbone of vader."""
