"""What one training step is: losses of a batch, for each kind of training."""
