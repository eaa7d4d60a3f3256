"""Files of a run folder: publishing, locks, strict JSON, and the versions that made the files."""
