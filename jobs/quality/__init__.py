"""Data quality: Great Expectations over every table."""
