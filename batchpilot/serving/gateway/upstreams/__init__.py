"""Several upstreams behind one gateway: who takes a request, who is well, who is tried again."""
