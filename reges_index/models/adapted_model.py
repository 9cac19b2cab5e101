"""A causal LM and its LoRA adapters by name: loading them, and holding the model with one of them on."""

from __future__ import annotations

import contextlib
import re
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from peft import PeftModel

from reges_index.errors import AdapterError
from reges_index.models.adapter_switch import AdapterSwitch
from reges_index.models.adapters import AdapterManifest, check_adapter
from reges_index.models.tokenized_model import TokenizedModel

__all__ = ["AdaptedModel"]


class AdaptedModel(TokenizedModel):
    """A model, its named adapters, and the lock for whoever runs it. Parameters as for `LocalLM`."""

    def __init__(self, model: Any, tokenizer: Any, *, name: str | None) -> None:
        given = model if isinstance(model, PeftModel) else None
        super().__init__(model if given is None else given.get_base_model(), tokenizer, name=name)
        self._switch = AdapterSwitch(self._model, given)
        self._manifests: dict[str, AdapterManifest | None] = dict.fromkeys(self._switch.paths)
        self._lock = threading.RLock()

    @property
    def given_adapter(self) -> str | None:
        """The adapter that the model was given with, a `PeftModel`'s active one; None without one."""
        return self._switch.given

    def adapter_from(self, path: str | Path) -> str:
        """Return the name of the adapter in a folder, which is loaded if it is not yet.

        Raises
        ------
        AdapterError
            As `load_adapter`.
        """
        folder = Path(path).expanduser().resolve()
        with self._lock:
            for name, place in self._switch.paths.items():
                if place.resolve() == folder:
                    return name
            plain = re.sub(r"[^\w-]+", "-", folder.name) or "adapter"
            name, number = plain, 1
            while name in self._switch.paths:
                number += 1
                name = f"{plain}-{number}"
            self.load_adapter(name, folder)
            return name

    def load_adapter(
        self, name: str, path: str | Path, *, role: str | None = None, any_base: bool = False
    ) -> AdapterManifest | None:
        """Load a LoRA adapter from a folder.

        Parameters
        ----------
        name
            Name to use it by.
        path
            Folder with ``adapter_config.json``, ``adapter_model.safetensors`` and, from this package's
            training, ``reges_adapter.json``; may begin with ``~``.
        role
            What it must have been trained for, such as "query-expert"; None takes any.
        any_base
            Take an adapter whose manifest speaks of another architecture or vocabulary, as long as its
            tensors fit (after tokens were added to the vocabulary, say).

        Returns
        -------
        AdapterManifest or None
            What the adapter says of itself; None for a plain PEFT adapter, which is logged as a warning.

        Raises
        ------
        AdapterError
            If the folder is missing or damaged, if the adapter is for another base or role, or if the name
            is taken. The model is then as it was before.
        """
        folder = Path(path).expanduser()
        with self._lock:  # from the look at the name on: two threads may want it
            if name in self._switch.paths:
                raise AdapterError(
                    f"an adapter {name!r} is loaded already, from {self._switch.paths[name]}",
                    hint="load the other one under another name",
                )
            manifest = check_adapter(folder, base=None if any_base else self, role=role)
            self._switch.load(name, folder)
            self._manifests[name] = manifest
        return manifest

    @property
    def adapters(self) -> tuple[str, ...]:
        """Names of the loaded adapters, in the order of loading."""
        return tuple(self._switch.paths)

    @property
    def adapter_paths(self) -> dict[str, Path]:
        """Where each loaded adapter came from: name -> folder."""
        return dict(self._switch.paths)

    def has_adapter(self, name: str) -> bool:
        """Whether an adapter of this name is loaded."""
        return name in self._switch.paths

    def manifest(self, name: str) -> AdapterManifest | None:
        """Return what a loaded adapter says of itself; None for a plain PEFT adapter.

        Raises
        ------
        AdapterError
            If no adapter of this name is loaded.
        """
        self.check_known(name)
        return self._manifests[name]

    def check_known(self, adapter: str | None) -> None:
        """Raise `AdapterError` for an adapter that is not loaded."""
        if adapter is not None and adapter not in self._switch.paths:
            known = ", ".join(self.adapters) or "none is loaded"
            raise AdapterError(
                f"{self.name} has no adapter {adapter!r}; known: {known}",
                hint="load it with load_adapter(name, path), or use adapter=None for the bare base",
            )

    @contextlib.contextmanager
    def _using(self, adapter: str | None) -> Iterator[None]:
        """Hold the model with this adapter switched on, or none; the bare base comes back in any case."""
        self.check_known(adapter)
        with self._lock, self._switch.on(adapter):
            yield
