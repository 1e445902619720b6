"""Open-Sora 1.2 text-to-video (arXiv 2412.20404) as a backbone of vader."""
