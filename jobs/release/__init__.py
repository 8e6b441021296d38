"""Bundle, judge, promote and roll back."""
