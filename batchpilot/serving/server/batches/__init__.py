"""OpenAI's Batch API: files of requests that are answered below everything interactive, kept in one folder."""
