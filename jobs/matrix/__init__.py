"""From events to the user-track matrix, the track pairs, and the first days."""
