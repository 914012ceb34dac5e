"""Catalogues of devices and models: published figures, each with its source."""

from batchpilot.configs.catalogue._devices import DeviceSpec, device, devices
from batchpilot.configs.catalogue._models import ModelSpec, model, models

__all__ = ["DeviceSpec", "ModelSpec", "device", "devices", "model", "models"]
