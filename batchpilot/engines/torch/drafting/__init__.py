"""Speculative decoding on a device: drafts by prompt lookup or by a small model, verified in one pass of the large."""
