"""HTTP in a process of its own: it answers completions, the engine's process everything else, over a local socket.

One interpreter for both made every token of every client wait for the thread that runs the model, and that thread for
them. `door` is the process that clients meet, `behind` the other end in the engine's, `wire` what lies between them.
"""
