"""Files of a run folder: published whole or not at all, guarded by locks, read strictly, stamped with versions."""
