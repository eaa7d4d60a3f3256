"""Phase 2: the search for operating points, its truth, its state, and its evaluation on the test split."""
