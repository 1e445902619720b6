"""The base of every component's options. Apart from the run spec, so that an isolated reward needs little else."""

from __future__ import annotations

from typing import Annotated, Any, Literal, get_args, get_origin

from pydantic import BaseModel, ConfigDict, ValidationInfo, field_validator


class Options(BaseModel):
    """Base of every component's options: frozen, and a misspelt option is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, protected_namespaces=())

    @field_validator("*", mode="before")
    @classmethod
    def _truth_is_no_number(cls, value: Any, info: ValidationInfo) -> Any:
        """Python takes true for 1."""
        if _holds_truth(value) and info.field_name is not None:
            kinds = set(_kinds(cls.model_fields[info.field_name].annotation))
            if kinds & {int, float} and kinds <= {int, float, str, type(None)}:
                raise ValueError("expected a number, not true or false")
        return value


def _holds_truth(value: Any) -> bool:
    if isinstance(value, list | tuple):
        return any(map(_holds_truth, value))
    return isinstance(value, bool)


def _kinds(annotation: Any) -> list[Any]:
    """The types that an annotation is made of; literals are the types of their values."""
    if get_origin(annotation) is Literal:
        return [type(value) for value in get_args(annotation)]
    if get_origin(annotation) is Annotated:
        return _kinds(get_args(annotation)[0])
    inner = [one for one in get_args(annotation) if one is not ...]
    return [kind for one in inner for kind in _kinds(one)] if inner else [annotation]
