"""Re-ranking by skip probability, and reasons for a prediction."""
