"""The field's controllers of a running server, a rule a file; `by_name` builds them."""
