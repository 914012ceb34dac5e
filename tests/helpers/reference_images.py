"""The plain scheduler's images; `features` are those whose features are kept, the last one looked at last."""

import math


class Images:
    """What has to be encoded, and the queues of `vision`."""

    def missing(self, r):
        """Sizes of the images of a request that have to be encoded, one that it shows twice once."""
        missing = {}
        for image, tokens, end in r.images:
            if r.computed < end and image not in self.features:
                missing.setdefault(image, tokens)
        return list(missing.values())

    def encode_ms(self, sizes):
        """Time to encode images of these sizes in a step, each size in passes of its own."""
        return sum(
            math.ceil(sizes.count(size) / self.tower.together) * self.tower.pass_ms
            + sizes.count(size) * size * self.tower.token_ms
            for size in set(sizes)
        )

    def lone_encode_ms(self, r):
        return self.encode_ms(self.missing(r))

    def least_encode_ms(self, r):
        return self.tower.token_ms * sum(self.missing(r))

    def encode_ms_with(self, r):
        return self.encode_ms([*self.to_encode, *self.missing(r)])

    def look_at_images(self, r):
        """Who is let in has its images encoded in this step, or finds their features."""
        missing = self.missing(r)
        self.lookups += len(r.images)
        self.hits += len(r.images) - len(missing)
        self.to_encode += missing
        for image in [image for image, _, end in r.images if r.computed < end]:
            self.features = [*(other for other in self.features if other != image), image]
            self.features = self.features[max(len(self.features) - self.tower.feature_cache, 0) :]

    def vision_queue(self, r):
        return (r.priority, max((tokens for _, tokens, _ in r.images), default=0))

    def vision_keys(self):
        """Whose queue is longest for its weight and wait goes first, before all who is urgent."""
        queues = {}
        for r in self.waiting:
            queues.setdefault(self.vision_queue(r), []).append(r)
        score = {
            queue: len(rs) / (100.0, 500.0, 2000.0)[queue[0]] / (1.0 + self.now - sum(r.arrival for r in rs) / len(rs))
            for queue, rs in queues.items()
        }
        order = sorted(queues, key=lambda queue: (-score[queue], queue))
        for r in self.waiting:
            urgent = r.priority == 0 and self.now - r.arrival >= 80.0
            r.key = (-1 if urgent else order.index(self.vision_queue(r)), r.arrival)
