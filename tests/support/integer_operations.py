"""What of a quantized network runs as integer arithmetic."""

from study.networks.inference_network import RunnableNetwork


def integer_operations(network: RunnableNetwork) -> dict[str, int]:
    """Count oneDNN's integer operations in the graph of each part.

    Returns:
        Counts by name of the part: ``segment 1`` ... ``classifier``, ``head 1`` ... A part without a graph counts 0.
    """
    parts = [
        *((f"segment {exit}", part) for exit, part in enumerate(network.segments, start=1)),
        ("classifier", network.classifier),
        *((f"head {exit}", part) for exit, part in enumerate(network.exit_heads, start=1)),
    ]
    return {name: _count_integer(part) for name, part in parts}


def _count_integer(part: object) -> int:
    graph = getattr(part, "graph", None)
    return 0 if graph is None else sum("onednn.q" in str(node.target) for node in graph.nodes)
