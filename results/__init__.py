"""Results of a study: tables, fronts, figures. The package uses nothing of ``study``."""
