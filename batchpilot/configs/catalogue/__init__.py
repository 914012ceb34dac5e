"""Catalogues of devices and models: published figures, each with its source."""

from batchpilot.configs.catalogue._additions import VARIABLE, Additions, add_catalogue
from batchpilot.configs.catalogue._devices import device, devices
from batchpilot.configs.catalogue._models import model, model_facts, model_reference, models
from batchpilot.configs.catalogue.device_spec import DeviceSpec
from batchpilot.configs.catalogue.power import Power, powers
from batchpilot.configs.catalogue.prices import Price, prices
from batchpilot.configs.models.spec import ModelSpec

__all__ = [
    "VARIABLE",
    "Additions",
    "DeviceSpec",
    "ModelSpec",
    "Power",
    "Price",
    "add_catalogue",
    "device",
    "devices",
    "model",
    "model_facts",
    "model_reference",
    "models",
    "powers",
    "prices",
]
