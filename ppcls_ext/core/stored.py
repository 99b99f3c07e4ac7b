"""Checking what the toolkit has stored as JSON and reads again, which may be damaged or of something else."""

from __future__ import annotations

import json
from typing import Annotated, Any, TypeVar

import pydantic

Count = Annotated[int, pydantic.Field(gt=0)]
Positive = Annotated[float, pydantic.Field(gt=0)]
Scalar = str | int | float | bool | None

# Of a dataclass that is stored with all its fields (`__pydantic_config__`), by which `checked` reads it.
STORED = pydantic.ConfigDict(strict=True, allow_inf_nan=False, extra="forbid")


class Stored(pydantic.BaseModel):
    """What is read of a part of a file; other keys may stand beside. Numbers are finite, and no text is one."""

    model_config = pydantic.ConfigDict(strict=True, allow_inf_nan=False)


S = TypeVar("S")


def checked(kind: type[S], content: Any) -> S:
    """What the content of a JSON file stands for. Raises ValueError, whose text is one line: where, and why.

    Args:
        kind: a subclass of `Stored`, or a dataclass with `STORED`.
    """
    try:
        # As text again: only there a list may stand for a tuple and a mapping for a dataclass, with all else strict.
        return pydantic.TypeAdapter(kind).validate_json(json.dumps(content, ensure_ascii=False).encode())
    except UnicodeEncodeError as error:  # JSON may hold halves of characters, which no report can be written with
        raise ValueError("it holds what is no text of UTF-8") from error
    except pydantic.ValidationError as error:
        first = error.errors()[0]
        at = ".".join(map(str, first["loc"]))
        raise ValueError(f"{at}: {first['msg']}" if at else first["msg"]) from error
