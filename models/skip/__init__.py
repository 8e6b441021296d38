"""Skip prediction: the probability that a listener plays a track for more than 30 seconds."""
