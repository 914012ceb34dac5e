"""Images in scenario files: who sends which (`workload.images`), and what encodes them (`engine.vision`)."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, model_validator

from batchpilot.configs.load_spec import Share
from batchpilot.configs.strict import StrictModel, problem
from batchpilot.core.image_sizes import MOST_IMAGES, SIDES_PX

NotNegative = Annotated[float, Field(ge=0)]


class ImagesSpec(StrictModel):
    """Images that requests carry; their tokens come on top of the lengths.

    Images stand in front of the prompt, behind what `sharing` or a trace says that it shares. In front, their KV blocks
    are shared like any other prefix.

    Attributes:
        share: share of the requests that have any.
        sizes: weight of each side in px: 224, 336 or 448.
        different: how many different images there are of each size.
        zipf: the k-th most popular is asked about in proportion to 1 / k ** zipf.
        per_request: weight by how many a request has that has any, 1 to 8.
    """

    share: Share
    sizes: Annotated[dict[int, NotNegative], Field(min_length=1)] = Field(default_factory=lambda: {336: 1.0})
    different: Annotated[int, Field(ge=1)] = 1000
    zipf: NotNegative = 1.0
    per_request: Annotated[dict[int, NotNegative], Field(min_length=1)] = Field(default_factory=lambda: {1: 1.0})

    @model_validator(mode="after")
    def _known_sizes(self) -> ImagesSpec:
        for side in self.sizes:
            if side not in SIDES_PX:
                raise problem(f"a side of {side} px is none of {', '.join(map(str, SIDES_PX))}", "sizes")
        if not sum(self.sizes.values()) > 0:
            raise problem("all weights are 0; give at least one size a weight above 0", "sizes")
        for count in self.per_request:
            if not 1 <= count <= MOST_IMAGES:
                raise problem(f"{count} images a request is none of 1 to {MOST_IMAGES}", "per_request")
        if not sum(self.per_request.values()) > 0:
            raise problem("all weights are 0; give at least one count a weight above 0", "per_request")
        return self


class VisionSpec(StrictModel):
    """What encodes images on the engine.

    Attributes:
        tower: a tower whose time is estimated for the device, one of `latency.model.vision_tower.TOWERS`.
        pass_ms: time of a pass of a tower of your own, whatever its images; likewise instead of `tower`:
        token_ms: time of an image token in it.
        feature_cache: images whose features are kept.
        together: most images of one size in a pass.
    """

    tower: str | None = None
    pass_ms: NotNegative | None = None
    token_ms: NotNegative | None = None
    feature_cache: Annotated[int, Field(ge=0)] = 10_000
    together: Annotated[int, Field(ge=1)] = 32

    @model_validator(mode="after")
    def _one_cost(self) -> VisionSpec:
        times = (self.pass_ms, self.token_ms)
        if (self.tower is None) != (None not in times) or (self.tower is not None and times != (None, None)):
            raise problem("give either a tower, or both pass_ms and token_ms", "tower")
        return self
