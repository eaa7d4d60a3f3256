"""A study from its file to its front, and the commands on one network."""
