"""The cold-start engine: input vector, network, segments and recommendation methods."""
