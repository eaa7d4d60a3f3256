"""Seconds and joules measured on the device at hand."""
