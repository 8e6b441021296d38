"""Weekly monitoring: drift of the newcomers' signals."""
