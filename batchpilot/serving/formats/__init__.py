"""Files of others, read and written: results of load tests, and what their servers are started with."""
