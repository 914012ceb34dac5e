"""`TunerSession`: windows and details from a server's raw events, and the tuner that hears them."""

from batchpilot.serving.session.session import REJECTIONS, TunerSession

__all__ = ["TunerSession", "REJECTIONS"]
