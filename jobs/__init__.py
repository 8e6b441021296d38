"""What a task runs: read, transform, train, check, write."""
