"""The reference server: OpenAI's API over the live engine, its limits set by a tuner. Needs the extra `serve`."""
