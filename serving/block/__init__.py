"""The block list: tracks, artists and albums that appear in no list, everywhere or in some countries."""
