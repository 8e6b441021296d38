"""The two joint spaces of users and tracks."""
