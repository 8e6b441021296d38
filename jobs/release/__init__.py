"""Bundle, evaluate, promote and roll back releases."""
