"""The plain scheduler's KV blocks, counted afresh from what each request holds.

The prefix cache is a list of what is known and held by nobody, and what requests hold of it; a request's `contents`
name its blocks.
"""

import math


class Blocks:
    """What the running requests and the prefix cache hold."""

    def blocks_for(self, tokens):
        return math.ceil(tokens / self.block_size)

    def free(self):
        own = sum(r.blocks - len(r.shared) for r in self.running)
        return self.kv_blocks - own - len({c for r in self.running for c in r.shared})

    def evict(self):
        while len(self.idle) > self.free():
            self.idle.pop(0)

    def held(self):
        return {c for r in self.running for c in r.shared}

    def found(self, r):
        """Leading blocks that the cache has, without the one of the last token."""
        if not self.prefix_cache:
            return []
        there, found = self.held() | set(self.idle), []
        for content in r.contents[: (r.prompt + r.generated - 1) // self.block_size]:
            if content not in there:
                break
            found.append(content)
        return found

    def look_up(self, r):
        r.computed = len(self.found(r)) * self.block_size

    def share(self, r, tokens):
        if self.prefix_cache:
            for content in r.contents[len(r.shared) : tokens // self.block_size]:
                r.shared.append(content)
                if content in self.idle:
                    self.idle.remove(content)

    def release(self, r):
        if r.blocks:
            self.share(r, r.computed)
        shared, r.shared, r.blocks = r.shared, [], 0
        self.idle += [c for c in reversed(shared) if c not in self.held()]
