"""Pictures in requests: what their data says without decoding, and how they are decoded."""
