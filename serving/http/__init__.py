"""HTTP: middleware, fast routes, micro-batching, time limits, Prometheus metrics."""
