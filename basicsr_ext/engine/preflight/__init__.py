"""What is tried before a run: a sample of every stage, and for ``--check`` what an iteration costs."""
