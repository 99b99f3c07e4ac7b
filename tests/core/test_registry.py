"""`ppcls_ext.core.registry`: names belong to whoever took them first, and wrong keys are named."""

from __future__ import annotations

import pytest

from ppcls_ext.core.errors import UserError
from ppcls_ext.core.registry import Registry, accepted_keys, call_checked


def make(size: int, name: str = "x", *, deep: bool = False) -> tuple[int, str, bool]:
    if size < 0:
        raise ValueError(f"size must be >= 0,\n got {size}")
    return size, name, deep


def other() -> None:
    pass


def test_a_registry_is_a_mapping_of_what_was_registered() -> None:
    registry = Registry("thing")
    assert registry.register("a", make) is make
    registry.register("b", other)
    assert dict(registry) == {"a": make, "b": other}
    assert len(registry) == 2
    assert "c" not in registry
    with pytest.raises(KeyError):
        registry["c"]


def test_a_taken_name_raises_keyerror_that_names_the_owner() -> None:
    registry = Registry("thing")
    registry.register("a", make)
    with pytest.raises(KeyError, match=rf"thing 'a' is already registered by {__name__}\.make"):
        registry.register("a", other)
    assert registry["a"] is make


def test_registering_the_same_factory_again_changes_nothing() -> None:
    registry = Registry("thing")
    registry.register("a", make)
    registry.register("a", make)
    assert dict(registry) == {"a": make}


def test_accepted_keys_are_the_declared_ones() -> None:
    def loose(a: int, *args: int, b: int = 1, **kwargs: int) -> None:
        pass

    class Base:
        def __init__(self, a: int, **kwargs: int) -> None:
            pass

    class Derived(Base):
        def __init__(self, b: int, **kwargs: int) -> None:
            super().__init__(**kwargs)

    assert accepted_keys(Derived) == {"a", "b"}  # what it passes on is its base's
    assert accepted_keys(make) == {"size", "name", "deep"}
    assert accepted_keys(loose) == {"a", "b"}


def test_call_checked_calls_with_the_config_and_what_the_factory_takes_of_the_rest() -> None:
    assert call_checked(make, {"size": 2, "deep": True}, "Thing") == (2, "x", True)
    assert call_checked(make, {"size": 2}, "Thing", {"name": "given", "not_taken": 1}) == (2, "given", False)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"size": 1, "nam": "x"}, "Thing.nam: unknown key; did you mean 'name'?"),
        ({"size": 1, "zzz": 0}, "Thing.zzz: unknown key; known: deep, name, size"),
        ({}, "Thing: key 'size' is missing"),
        ({"size": -1}, "Thing: size must be >= 0, got -1"),
    ],
)
def test_call_checked_refuses_in_one_line(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(UserError) as caught:
        call_checked(make, arguments, "Thing")
    assert str(caught.value) == message


def test_a_config_cannot_set_what_the_program_sets() -> None:
    with pytest.raises(UserError, match=r"Thing\.name: unknown key"):
        call_checked(make, {"size": 1, "name": "mine"}, "Thing", {"name": "given"})


def test_other_errors_are_not_hidden() -> None:
    def broken() -> None:
        raise RuntimeError("a bug")

    with pytest.raises(RuntimeError, match="a bug"):
        call_checked(broken, {}, "Thing")
