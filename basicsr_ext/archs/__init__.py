"""Networks: one file per published architecture, ``<name>_arch.py``; ``layers/`` holds what several share.

A network takes and returns NCHW tensors in 0..1 (or its own ``pixel_range``) and knows nothing of
option files or training. May import ``config.errors`` and ``registry``; nothing else of the package.
"""
