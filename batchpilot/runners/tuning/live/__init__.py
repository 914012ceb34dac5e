"""`tune --server`: a study on a real server, one start a trial, its settings from a twin that the trials teach."""
