"""Will a listener skip the track? Answers from a release of the skip engine."""
