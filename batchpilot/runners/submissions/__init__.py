"""Submissions: a strategy judged on a suite nobody trained on, as one record; and the page that ranks the records."""
