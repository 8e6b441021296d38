"""Place a new listener among the listeners we know."""
