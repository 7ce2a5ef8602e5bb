"""One preprocessor's keys and values, read strictly: every complaint names the file, the key and what is allowed.

A key that is absent or null takes the processor's own default, as in transformers. Nothing here knows
what a key means.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Final, TypeGuard

from sidecar.errors import RecipeError

MOST: Final = 2**31 - 1
"""The largest whole number that any key may hold: what a tensor's axis can be."""
# What float32 holds with room for a product of two, and its inverse; no processor's number comes near.
_LARGEST: Final = 1e15
# Characters of a value that an error repeats.
_QUOTED: Final = 200


@dataclass(frozen=True, slots=True)
class Config:
    """`source` names the file, and the section in it where there is one; `values` are its keys.

    `processor` are the keys of the whole processor (the top of processor_config.json) and `model` those of
    config.json, for what a family has to know of the model around it; None where there is no such file.
    """

    source: str
    values: Mapping[str, object]
    processor: Config | None = None
    model: Config | None = None

    def flag(self, key: str, default: bool) -> bool:
        value = self._get(key, default)
        if isinstance(value, bool):
            return value
        raise self.refusal(key, "true or false")

    def integer(self, key: str, default: int, least: int = 1, most: int = MOST) -> int:
        value = self._get(key, default)
        if is_count(value, least) and value <= most:
            return value
        bound = "" if most == MOST else f" and at most {most}"
        raise self.refusal(key, f"a whole number of at least {least}{bound}")

    def number(self, key: str, default: float) -> float:
        value = self._get(key, default)
        if _is_number(value):
            return float(value)
        raise self.refusal(key, f"a number of at most {_LARGEST:g} either way")

    def positive(self, key: str, default: float) -> float:
        value = self.number(key, default)
        if value >= 1 / _LARGEST:
            return value
        raise self.refusal(key, f"a number from {1 / _LARGEST:g} to {_LARGEST:g}")

    def triple(self, key: str, default: tuple[float, float, float]) -> tuple[float, float, float]:
        """One number a channel; a single number counts for all three."""
        value = self._get(key, default)
        if _is_number(value):
            return (float(value),) * 3
        if isinstance(value, list | tuple) and len(value) == 3 and all(map(_is_number, value)):  # noqa: PLR2004 - RGB
            red, green, blue = value
            return float(red), float(green), float(blue)
        raise self.refusal(key, "three finite numbers (red, green, blue), or one for all of them")

    def one_of(self, key: str, default: object, allowed: Collection[object]) -> None:
        """Refuses every value but these."""
        value = self._get(key, default)
        if not any(
            value is choice or (type(value) is type(choice) and value == choice) for choice in allowed
        ):
            raise self.refusal(key, " or ".join(json.dumps(choice) for choice in allowed))

    def raw(self, key: str) -> object:
        return self.values.get(key)

    @property
    def whole_processor(self) -> str:
        """The class of the processor around this one, which prepares prompts too; "" where no file names it."""
        named = None if self.processor is None else self.processor.raw("processor_class")
        return str(named or self.raw("processor_class") or "")

    def refusal(self, key: str, allowed: str) -> RecipeError:
        found = json.dumps(self.values.get(key), default=str)
        found = found if len(found) <= _QUOTED else f"{found[:_QUOTED]}..."
        return RecipeError(
            f"{self.source}: `{key}` is {found}, and must be {allowed}",
            file=self.source,
            key=key,
            value=found,
            allowed=allowed,
        )

    def ignored(self, known: Collection[str]) -> tuple[str, ...]:
        """The keys that are not among `known`, sorted: the reference ignores them, and so does the recipe.

        An unknown `do_...` that is true names a step that would be left out, and is a RecipeError.
        """
        unknown = sorted(set(self.values) - set(known))
        for key in unknown:
            if key.startswith("do_") and self.values[key]:
                raise self.refusal(key, "false or absent: this step is not known for this processor")
        return tuple(unknown)

    def _get(self, key: str, default: object) -> object:
        value = self.values.get(key)
        return default if value is None else value


def is_count(value: object, least: int = 1) -> TypeGuard[int]:
    """Whether a JSON value is a whole number from `least` to MOST; true and false are none."""
    return isinstance(value, int) and not isinstance(value, bool) and least <= value <= MOST


def _is_number(value: object) -> TypeGuard[int | float]:
    return isinstance(value, int | float) and not isinstance(value, bool) and -_LARGEST <= value <= _LARGEST
