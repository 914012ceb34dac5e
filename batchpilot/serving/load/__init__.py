"""An open-loop load test of any OpenAI-compatible server, the requests of a scenario at their times. Needs httpx."""
