"""Weekly monitoring: drift of new listeners' first-day signals."""
