"""The online profile: what listeners did today, received as events, readable by recommendations at once."""
