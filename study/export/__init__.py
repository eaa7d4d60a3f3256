"""From a point of a front to a folder that classifies images without this program."""
