"""Figures of a study, in the sizes of a paper's column (3.3 in) and page (7 in)."""
