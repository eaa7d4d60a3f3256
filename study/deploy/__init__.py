"""Exported models: read, checked, and run exit by exit. Neither Ray nor Optuna nor pandas is imported here."""
