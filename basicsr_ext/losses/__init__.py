"""Losses that basicsr lacks, and the lookup of both."""
