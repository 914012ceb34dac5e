"""Requests that begin alike, and the contents of their KV blocks worked out token by token."""

from batchpilot.workloads.prefixes import Prefixes


def in_common(tokens, hash_block, rng, kinds=3):
    """Block hashes of requests of so many tokens: each block goes on in one of a few ways, or is the request's own."""
    rows, paths = [], {}
    for r, length in enumerate(tokens):
        path, row = (), []
        for _ in range(int(length) // hash_block):
            alone = rng.random() < 0.15 * hash_block / 64 or any(step < 0 for step in path[-1:])
            path = (*path[-40:], -1 - r if alone else int(rng.integers(0, kinds) ** 2 // kinds))
            row.append(paths.setdefault((tuple(row), path[-1]), 7 + 3 * len(paths)))
        rows.append(row[: rng.integers(0, len(row) + 1)] if rng.random() < 0.2 else row)
    return Prefixes.from_lists(rows, hash_block)


def reference_contents(table, block_size):
    """By request, what its KV blocks are: the hash of the block that the last token lies in, and which part of it."""
    prefixes, told = table.prefixes, []
    for r in range(len(table)):
        hashes = prefixes.hashes[prefixes.starts[r] : prefixes.starts[r + 1]].tolist()
        length = min(len(hashes) * prefixes.block_tokens, int(table.prompt_tokens[r] + table.output_tokens[r]) - 1)
        blocks = range(length // block_size)
        told.append(tuple((hashes[(b * block_size + block_size - 1) // prefixes.block_tokens], b) for b in blocks))
    return told
