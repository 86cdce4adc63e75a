"""What the package requires; the rest stands in pyproject.toml, which cannot name a folder.

A wheel built here names that folder too: on another machine, install it with ``--no-deps``.
"""

from pathlib import Path

from setuptools import setup

BASICSR = Path(__file__).resolve().parent / "packaging" / "basicsr"

setup(
    install_requires=[
        "torch>=2.6,<2.16",
        "torchvision",
        f"basicsr @ {BASICSR.as_uri()}",
        "pyyaml",
        "opencv-python",
        "tensorboard",
        "lmdb",
        "numpy",
        "pydantic>=2.7",
        "typing-extensions",
        "rich",
        "pillow",
        "scikit-image",
    ]
)
