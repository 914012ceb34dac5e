"""Tuners inside the servers people run, one module a server: `ray_serve`, `litserve_loop`, `vllm_scheduler`.

Each imports its server's package, so import the one you need; nothing is imported here.
"""
