"""Running it: trainer, validator, schedule, checkpoints, distributed, precision, EMA, logging."""
