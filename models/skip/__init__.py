"""The skip engine's mathematics: will a listener listen to a track for more than 30 seconds?"""
