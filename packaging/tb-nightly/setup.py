"""An empty package called tb-nightly, which basicsr asks for and which TensorBoard makes superfluous.

The real tb-nightly and tensorboard install the same files over each other, and with both installed
``tensorboard`` refuses to start (it finds every plugin twice).
"""

from setuptools import setup

setup(name="tb-nightly", version="99.0", install_requires=["tensorboard"], packages=[])
