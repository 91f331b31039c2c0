"""Plain Python values as JSON and back, tuples, sets, bytes and exact floats included. Pure.

The caller and both programs that run in sandboxes share it: its text is put in place of their import of it, so it imports nothing but
`typing`.
What comes back is always plain, whatever the other side sent: comparing it runs nobody's code.
"""

from typing import Any

_SMALL = 1 << 53
#: Values of one hash in a set or among a dict's keys. Honest ones have a few ((-1, 0) and (-2, 0)); what is built of many takes the square
#: of their number to put together.
_ALIKE = 64
#: What iterates without being a list: views, `map`, `range`, generators, `deque`.
_SERIES = frozenset(("builtins", "collections", "itertools"))
#: Checks pass these to functions (`remove(values, int)`).
_TYPES: dict[str, type] = {
    kind.__name__: kind for kind in (bool, int, float, complex, str, bytes, list, tuple, set, frozenset, dict, object)
}


def encode(value: Any, refs: list[Any] | None = None) -> Any:
    """A value as JSON: plain ones by content, others by a number under which `refs` keeps them; without `refs` a series is a list."""
    if value is None or isinstance(value, bool | str):
        return value
    if isinstance(value, int):
        return int(value) if -_SMALL < value < _SMALL else {"t": "int", "v": hex(value)}
    if isinstance(value, float):
        return {"t": "float", "v": float(value).hex()}
    if isinstance(value, complex):
        return {"t": "complex", "v": [value.real.hex(), value.imag.hex()]}
    if isinstance(value, bytes | bytearray):
        return {"t": "bytes", "v": value.hex()}
    if isinstance(value, list):
        return [encode(item, refs) for item in value]
    for kind in (tuple, set, frozenset):
        if isinstance(value, kind):
            return {"t": kind.__name__, "v": [encode(item, refs) for item in value]}
    if isinstance(value, dict):
        return {"t": "dict", "v": [[encode(key, refs), encode(item, refs)] for key, item in value.items()]}
    if isinstance(value, type) and value in _TYPES.values():
        return {"t": "type", "v": value.__name__}
    if refs is None:
        if type(value).__module__ in _SERIES and hasattr(type(value), "__iter__"):
            return [encode(item) for item in value]
        return {"t": "object", "v": repr(value)[:200]}
    refs.append(value)
    return {"t": "ref", "v": len(refs) - 1}


def decode(data: Any, refs: Any) -> Any:
    """A value that came as JSON; `refs[number]` is what a number stands for.

    Wrong JSON raises LookupError, TypeError, ValueError or OverflowError.
    """
    if isinstance(data, list):
        return [decode(item, refs) for item in data]
    if not isinstance(data, dict):
        return data
    kind, value = data["t"], data["v"]
    if kind == "tuple":
        return tuple(decode(item, refs) for item in value)
    if kind in ("set", "frozenset"):
        return {"set": set, "frozenset": frozenset}[kind](_hashed([decode(item, refs) for item in value]))
    if kind == "dict":
        return dict(zip(_hashed([decode(key, refs) for key, _ in value]), [decode(item, refs) for _, item in value], strict=True))
    simple = {"int": lambda: int(value, 16), "float": lambda: float.fromhex(value), "bytes": lambda: bytes.fromhex(value)}
    if kind in simple:
        return simple[kind]()
    if kind == "type":
        return _TYPES[value]
    return complex(*map(float.fromhex, value)) if kind == "complex" else refs[value]


def _hashed(items: list[Any]) -> list[Any]:
    """Items of a set or keys of a dict. Raises ValueError where they were made to collide."""
    alike: dict[int, int] = {}
    for item in items:
        number = hash(item)
        alike[number] = alike.get(number, 0) + 1
        if alike[number] > _ALIKE:
            raise ValueError("a set whose items have one hash")
    return items
