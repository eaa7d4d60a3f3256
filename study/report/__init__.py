"""What a person looks at: a study in Python."""
