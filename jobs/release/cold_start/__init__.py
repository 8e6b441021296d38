"""What a release of the cold-start engine contains and how its gate evaluates it."""
