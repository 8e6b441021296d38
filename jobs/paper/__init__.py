"""The cold-start paper's experiment on its public files."""
