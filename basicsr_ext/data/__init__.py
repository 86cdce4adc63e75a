"""Images into batches: sources, degradations, data sets, the progressive sampler, the loader.

Knows nothing of networks. May import ``config`` and ``registry``.
"""
