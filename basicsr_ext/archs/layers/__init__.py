"""Building blocks that two or more networks share; each module states its tensor shapes."""
