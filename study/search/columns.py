"""The columns of the tables that hold the quantities of a search. Nothing heavy is imported here."""

COLUMNS = {
    "accuracy": "accuracy",
    "flops": "flops",
    "bitops": "bitops",
    "energy": "energy_joules",
    "latency_mean": "latency_mean_seconds",
    "latency_p50": "latency_p50_seconds",
    "latency_p99": "latency_p99_seconds",
    "memory": "memory_bytes",
}
"""Objective or constraint -> column of the tables."""
