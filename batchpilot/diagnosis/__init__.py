"""Which limit of a server binds, by what it says of itself, or by simulating what each limit is worth."""
