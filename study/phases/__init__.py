"""The two phases of a study: training on Ray Tune, and the search over operating points on Optuna."""
