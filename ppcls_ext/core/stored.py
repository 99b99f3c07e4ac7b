"""Checking what the toolkit has stored as JSON and reads again, which may be damaged or of something else."""

from __future__ import annotations

from typing import Annotated, Any, TypeVar

import pydantic


def _utf8(text: str) -> str:
    """JSON may hold halves of characters (surrogates), which no report can be written with."""
    if any("\ud800" <= character <= "\udfff" for character in text):
        raise ValueError("not a text of UTF-8")
    return text


Text = Annotated[str, pydantic.AfterValidator(_utf8)]
Positive = Annotated[float, pydantic.Field(gt=0)]
Scalar = Text | int | float | bool | None


class Stored(pydantic.BaseModel):
    """What is read of a part of a file; other keys may stand beside. Numbers are finite, and no text is one."""

    model_config = pydantic.ConfigDict(strict=True, allow_inf_nan=False)


S = TypeVar("S", bound=Stored)


def checked(kind: type[S], content: Any) -> S:
    """The content of a JSON file as what it has to be. Raises ValueError, whose text is one line: where, and why."""
    try:
        return kind.model_validate(content)
    except pydantic.ValidationError as error:
        first = error.errors()[0]
        at = ".".join(map(str, first["loc"]))
        raise ValueError(f"{at}: {first['msg']}" if at else first["msg"]) from error
