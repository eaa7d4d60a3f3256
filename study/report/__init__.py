"""What a person looks at: a study in Python, and the page of a study (content, charts, HTML)."""
