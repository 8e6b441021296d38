"""Jobs that turn events into the catalogue, the user-track matrix, the track pairs and the first days."""
