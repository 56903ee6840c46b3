"""A module as JSON and back, without pickle: classes and functions by name, plain attributes by value.

What a module computes with is its class (which must be importable), its plain attributes, its children, and its
parameters and buffers, whose values travel apart. Nothing but :class:`torch.nn.Module` itself is called to make it
anew: the class's own ``__init__`` is not run.
"""

from __future__ import annotations

import math
import types
from collections.abc import Mapping
from typing import Any

import torch
from pydantic import JsonValue
from torch import Tensor, nn

from dora_nb.errors import InputError
from dora_nb.executor.tasks.task import dtype_name, imported, torch_dtype

#: What every module has besides its attributes; none of it is described, and hooks are refused.
_OWN = frozenset(nn.Module().__dict__)
_HOOKS = tuple(name for name in sorted(_OWN) if name.endswith("_hooks"))

#: Of recurrent modules: lists of the parameters that are made anew from them.
_RECURRENT = frozenset({"_flat_weights", "_flat_weight_refs"})

#: Where functions live that do not know their module.
_FUNCTION_HOMES = ("torch", "torch.nn.functional", "torch.special", "math", "operator")

Description = dict[str, JsonValue]


def describe(module: nn.Module, where: str) -> Description:
    """A module as JSON.

    Parameters
    ----------
    module
        Any whose class can be imported.
    where
        Its place, for messages.

    Raises
    ------
    InputError
        If a class cannot be imported, or an attribute cannot be described; says which.
    """
    return _described(module, where, "", {}, {})


def _described(
    module: nn.Module, where: str, path: str, modules: dict[int, str], tensors: dict[int, str]
) -> Description:
    modules[id(module)] = path
    description: Description = {"class": name_of(type(module), where)}
    for hooks in _HOOKS:
        if getattr(module, hooks):
            raise InputError(f"{where}.{hooks}", "hooks", "a module without hooks: they cannot be described")
    skipped = _OWN | _RECURRENT if isinstance(module, nn.RNNBase) else _OWN
    attributes = {
        name: _value(each, f"{where}.{name}") for name, each in module.__dict__.items() if name not in skipped
    }
    parameters = {
        name: None if each is None else _tensor(each, f"{path}{name}", tensors) | {"trained": each.requires_grad}
        for name, each in module._parameters.items()
    }
    buffers = {
        name: None
        if each is None
        else _tensor(each, f"{path}{name}", tensors) | {"persistent": name not in module._non_persistent_buffers_set}
        for name, each in module._buffers.items()
    }
    children: Description = {}
    for name, child in module._modules.items():
        if child is None or id(child) in modules:
            children[name] = None if child is None else {"same": modules[id(child)]}
        else:
            children[name] = _described(child, f"{where}.{name}", f"{path}{name}.", modules, tensors)
    parts: dict[str, Any] = {
        "attributes": attributes, "parameters": parameters, "buffers": buffers, "children": children
    }  # fmt: skip
    return description | {name: part for name, part in parts.items() if part}


def rebuild(description: Mapping[str, Any]) -> nn.Module:
    """The module of a description; its parameters and buffers have the right shapes and no values yet.

    Raises
    ------
    InputError
        If something named cannot be imported, or is not a module class.
    """
    return _rebuilt(description, "", {}, {})


def _rebuilt(
    description: Mapping[str, Any], path: str, modules: dict[str, nn.Module], tensors: dict[str, Tensor]
) -> nn.Module:
    cls = imported(description["class"])
    if not (isinstance(cls, type) and issubclass(cls, nn.Module)):
        raise InputError("class", description["class"], "the name of a subclass of torch.nn.Module")
    module: nn.Module = cls.__new__(cls)
    nn.Module.__init__(module)
    modules[path] = module
    for name, value in description.get("attributes", {}).items():
        module.__dict__[name] = _revalued(value)
    for name, entry in description.get("parameters", {}).items():
        parameter = None
        if entry is not None:
            parameter = tensors.get(entry.get("same", ""))
            if parameter is None:
                parameter = nn.Parameter(_empty(entry), requires_grad=entry["trained"])
                tensors[f"{path}{name}"] = parameter
        module.register_parameter(name, parameter)  # type: ignore[arg-type]  # only parameters have these names
    for name, entry in description.get("buffers", {}).items():
        buffer = None
        if entry is not None:
            buffer = tensors.setdefault(entry.get("same", f"{path}{name}"), _empty(entry))
        module.register_buffer(name, buffer, persistent=entry is None or entry["persistent"])
    for name, entry in description.get("children", {}).items():
        child = None
        if entry is not None:
            child = modules[entry["same"]] if "same" in entry else _rebuilt(entry, f"{path}{name}.", modules, tensors)
        module.register_module(name, child)
    if isinstance(module, nn.RNNBase):
        module._init_flat_weights()
    return module


def _tensor(tensor: Tensor, path: str, tensors: dict[int, str]) -> dict[str, JsonValue]:
    description: dict[str, JsonValue] = {"shape": list(tensor.shape), "dtype": dtype_name(tensor.dtype)}
    if id(tensor) in tensors:
        return description | {"same": tensors[id(tensor)]}
    tensors[id(tensor)] = path
    return description


def _empty(description: Mapping[str, Any]) -> Tensor:
    return torch.empty(description["shape"], dtype=torch_dtype(description["dtype"]))


def name_of(thing: Any, where: str) -> str:
    """``module:qualified.name`` of a class or function.

    Raises
    ------
    InputError
        If it cannot be imported under a name.
    """
    name = getattr(thing, "__qualname__", getattr(thing, "__name__", ""))
    home = getattr(thing, "__module__", None)
    if home == "__main__" or "<locals>" in name or "<lambda>" in name:
        raise InputError(where, name, "a class or function of a file that workers can import: put it in one")
    simple = name.rpartition(".")[2]
    for module, path in ((home, name), *((each, simple) for each in _FUNCTION_HOMES)):
        if module and path:
            try:
                if imported(f"{module}:{path}") is thing:
                    return f"{module}:{path}"
            except InputError:  # not there: perhaps in the next one
                continue
    raise InputError(where, name or type(thing).__name__, "a class or function that can be imported under its name")


def _value(value: Any, where: str) -> JsonValue:
    """A plain value as JSON; what JSON does not have, as an object that says what it is."""
    if value is None or type(value) in (bool, int, str):
        plain: JsonValue = value
        return plain
    if type(value) is float:
        return value if math.isfinite(value) else {"float": str(value)}
    if type(value) is list:
        return [_value(each, f"{where}[{index}]") for index, each in enumerate(value)]
    if type(value) in (tuple, torch.Size):
        items: JsonValue = [_value(each, f"{where}[{index}]") for index, each in enumerate(value)]
        return {"tuple" if type(value) is tuple else "size": items}
    if type(value) is dict:
        return {"dict": [[_value(key, where), _value(each, f"{where}[{key!r}]")] for key, each in value.items()]}
    if isinstance(value, torch.dtype | torch.device):
        return {"dtype": dtype_name(value)} if isinstance(value, torch.dtype) else {"device": str(value)}
    if isinstance(value, type | types.FunctionType | types.BuiltinFunctionType):
        return {"function": name_of(value, where)}
    raise InputError(
        where,
        type(value).__name__,
        "numbers, text, None, tuples, lists and dicts of them, dtypes, functions and classes by name; tensors as "
        "registered buffers",
    )


def _revalued(value: Any) -> Any:
    if isinstance(value, list):
        return [_revalued(each) for each in value]
    if not isinstance(value, dict):
        return value
    ((kind, content),) = value.items()
    match kind:
        case "float":
            return float(content)
        case "tuple":
            return tuple(_revalued(each) for each in content)
        case "size":
            return torch.Size(content)
        case "dict":
            return {_hashable(_revalued(key)): _revalued(each) for key, each in content}
        case "dtype":
            return torch_dtype(content)
        case "device":
            return torch.device(content)
        case "function":
            return imported(content)
    raise InputError("attributes", kind, "a value as this package writes it")


def _hashable(key: Any) -> Any:
    return tuple(key) if isinstance(key, list) else key
