"""The weekly jobs that compute the two joint spaces of users and tracks."""
