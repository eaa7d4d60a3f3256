"""Settings, loss and loop of one training run."""
