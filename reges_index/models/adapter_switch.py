"""LoRA layers inside one base model: loading them, and switching them on for the length of a block."""

from __future__ import annotations

import contextlib
import re
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from peft import PeftConfig, PeftModel, set_peft_model_state_dict
from peft.tuners.tuners_utils import BaseTunerLayer
from safetensors.torch import load_file

from reges_index.errors import AdapterError
from reges_index.models.adapters import WEIGHTS_FILE


class AdapterSwitch:
    """The adapters of one model; not thread-safe by itself, `LocalLM` holds the lock.

    PEFT puts LoRA layers into the base model in place. They are disabled whenever nobody uses them, so the
    model is the bare base for everyone else who holds it.
    """

    def __init__(self, model: Any, given: PeftModel | None = None) -> None:
        self._model = model
        self._peft = given
        self.given: str | None = None if given is None else str(given.active_adapter)
        """The adapter that was on when the model was given with adapters in it; it stays on for others."""
        self._active = self.given
        names = () if given is None else given.peft_config
        self.paths: dict[str, Path] = {name: Path(f"<given as {name}>") for name in names}
        """Name -> folder of what is loaded, in the order of loading."""

    def load(self, name: str, path: Path) -> None:
        """Load the LoRA weights in folder ``path``, which :func:`check_adapter` has looked at.

        Raises
        ------
        AdapterError
            If the weights do not fit the model. The model is then as it was before.
        """
        if not re.fullmatch(r"[\w-]+", name):
            raise AdapterError(
                f"an adapter cannot be called {name!r}", hint="use letters, digits, '-' and '_' only"
            )
        if self._peft is None and any(isinstance(module, BaseTunerLayer) for module in self._model.modules()):
            raise AdapterError(
                f"the model holds adapters that were not loaded here, so {name!r} cannot be added",
                hint="give the base model without adapters, or merge them first",
            )
        trainable = [(parameter, parameter.requires_grad) for parameter in self._model.parameters()]
        first = self._peft is None
        try:
            config = PeftConfig.from_pretrained(str(path))
            config.inference_mode = True
            with warnings.catch_warnings():
                # PEFT warns of several configs on one model, which is the point here.
                warnings.simplefilter("ignore", UserWarning)
                # And, with transformers 5, of an attribute that PEFT itself reads.
                warnings.simplefilter("ignore", FutureWarning)
                if self._peft is None:
                    self._peft = PeftModel(self._model, config, name, autocast_adapter_dtype=False)
                else:
                    self._peft.add_adapter(name, config, autocast_adapter_dtype=False)
            self._fill(name, path)
        except (ValueError, TypeError, KeyError, RuntimeError, AttributeError, OSError) as problem:
            self._undo(name, first)
            for parameter, flag in trainable:
                parameter.requires_grad_(flag)
            raise AdapterError(
                f"adapter {name!r} in {path} does not fit {type(self._model).__name__}: {problem}",
                hint="it was trained on another base, or its files are damaged: train or copy it again",
            ) from problem
        finally:
            if self._peft is not None:
                self._set(self.given)
        self.paths[name] = path

    def _fill(self, name: str, path: Path) -> None:
        weights = load_file(path / WEIGHTS_FILE)
        result = set_peft_model_state_dict(self._peft, weights, adapter_name=name)
        missing = [key for key in result.missing_keys if f".{name}." in key]
        if missing or result.unexpected_keys:
            example = (missing or list(result.unexpected_keys))[0]
            raise ValueError(
                f"{len(missing)} tensors missing, {len(result.unexpected_keys)} unknown, such as {example}"
            )
        for key, parameter in self._model.named_parameters():
            if f".{name}." in key:
                # In the base's number format: mixing formats costs a conversion in every layer.
                parameter.data = parameter.data.to(self._model.device, self._model.dtype)
        self._model.eval()

    def _undo(self, name: str, first: bool) -> None:
        if first:
            if self._peft is not None:
                self._peft.unload()
            else:
                self._unwrap()
            self._peft = None
        elif self._peft is not None and name in self._peft.peft_config:
            self._peft.delete_adapter(name)

    def _unwrap(self) -> None:
        """Take out LoRA layers of a wrapping that failed half-way, when there is no PeftModel to do it."""
        for key, module in list(self._model.named_modules()):
            if isinstance(module, BaseTunerLayer):
                parent, _, attribute = key.rpartition(".")
                setattr(self._model.get_submodule(parent), attribute, module.get_base_layer())

    @contextlib.contextmanager
    def on(self, name: str | None) -> Iterator[None]:
        """Switch an adapter on (None: the bare base) for the block; afterwards all is as before."""
        before = self._active
        try:
            self._set(name)
            yield
        finally:
            self._set(before)

    def _set(self, name: str | None) -> None:
        if self._peft is None:
            return
        if name is None:
            self._peft.base_model.disable_adapter_layers()
        else:
            self._peft.base_model.enable_adapter_layers()
            # Without inference mode the adapter's gradients would be turned on.
            self._peft.base_model.set_adapter(name, inference_mode=True)
        self._active = name
