"""Costs modelled from device tables, and the simulation of frequency scaling."""
