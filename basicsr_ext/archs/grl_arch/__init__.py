"""GRL (arXiv:2303.00748), and the attention between stripes and anchors that only it uses."""

from .network import GRL as GRL
