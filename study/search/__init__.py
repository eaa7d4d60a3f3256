"""Phase 2: the search for operating points, state, and evaluation on the test split."""
