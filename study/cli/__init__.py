"""The command ``predictive-exit``: options, calls, and what is printed."""
