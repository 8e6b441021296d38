"""Point-in-time features of plays."""
