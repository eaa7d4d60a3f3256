"""Where trials, traces and measurements run."""
