"""Pieces two or more networks share."""
