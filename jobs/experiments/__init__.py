"""A/B tests: planned before, counted over users, refused where they prove nothing; and estimates without a test."""
