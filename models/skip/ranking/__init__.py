"""Re-ranking by skip probability, with reasons."""
