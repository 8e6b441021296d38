"""The skip engine: will a listener hear more than thirty seconds of a track?"""
