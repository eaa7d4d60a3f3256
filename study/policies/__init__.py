"""Rules of exit: criteria, thresholds, the prediction engine, policies, and their replay on traces."""
