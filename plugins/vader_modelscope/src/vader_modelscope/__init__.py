"""ModelScope text-to-video (arXiv 2308.06571) as a backbone of vader."""
