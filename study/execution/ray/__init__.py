"""Trials, traces and measurements on Ray. No other folder imports Ray."""
