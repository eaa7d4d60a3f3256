"""What was found: tables, fronts, figures. Knows nothing of how it was made."""
