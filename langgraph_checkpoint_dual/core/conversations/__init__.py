"""Messages of threads: read in parts, added without a graph, searched."""
