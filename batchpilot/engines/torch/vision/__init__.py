"""Images on the torch engine: a vision tower, what it has encoded, and where that goes in a step."""

from batchpilot.engines.torch.vision.encoder import VisionEncoder
from batchpilot.engines.torch.vision.shown import Shown, ShownImages
from batchpilot.engines.torch.vision.tower import TowerSize, VisionTransformer

__all__ = ["VisionEncoder", "VisionTransformer", "TowerSize", "Shown", "ShownImages"]
