"""What a release of the skip engine contains and how its gate evaluates it."""
