"""Classification networks by name: ours, and every backbone of PaddleClas for comparison."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from paddle import nn

from ppcls_ext.core.errors import UserError, nearest
from ppcls_ext.core.registry import Registry, accepted_keys, call_checked
from ppcls_ext.core.text import shown
from ppcls_ext.models.hgnet import PPHGNetV2
from ppcls_ext.models.keys import check_numbers, network_keys
from ppcls_ext.models.lcnet import PPLCNet
from ppcls_ext.models.network_spec import STAGES, NetworkSpec, parse_spec
from ppcls_ext.models.newer import NEWER
from ppcls_ext.models.spec import BASE_LAST_WIDTH, LAST_SEVEN, LAST_TWO, SPECS, LCNetSpec
from ppcls_ext.models.star_faster import faster_net_t0, star_net_s1
from ppcls_ext.models.weights import load_into, read_weights
from ppcls_ext.upstream.paddleclas import download, parameter_names_may_repeat, ppcls, public_weights

ARCHS = Registry("architecture")

SEARCHED = "LCNetSearched"  # the name of every network that its spec describes, in all three tasks
FAMILY = "PPLCNet"  # that of every network that the fields of an `LCNetSpec` describe

EVEN_RATES = (1.0,) * (1 + len(STAGES))


@functools.cache
def theseus_class() -> type[PPLCNet]:
    """PPLCNet with PaddleClas's layer surgery (`stop_after`, `return_stages`), which its recipes may ask for."""
    theseus = ppcls("arch.backbone.base.theseus_layer").TheseusLayer
    return type("PPLCNet", (PPLCNet, theseus), {"__module__": __name__, "__doc__": PPLCNet.__doc__})


def named_spec(
    name: str,
    dropout_prob: float | None = None,
    class_expand: int | None = None,
    use_last_conv: bool = True,
    stride_list: Sequence[int] | None = None,
) -> LCNetSpec:
    """The network `name` of `SPECS`, with the changes that PaddleClas's factories take.

    Raises:
        ValueError, TypeError: a value that is none of the kind.
    """
    if not isinstance(use_last_conv, bool):  # PaddleClas would take it as something else, and say nothing
        raise ValueError(f"use_last_conv must be true or false, got {use_last_conv!r}")
    spec = SPECS[name]
    if not use_last_conv:
        spec = spec.replace(last_width=0, dropout=0.0)
    if class_expand is not None and use_last_conv:
        spec = spec.replace(last_width=class_expand)
    if dropout_prob is not None and use_last_conv:
        spec = spec.replace(dropout=dropout_prob)
    if stride_list is not None:
        if not _holds(stride_list, int):
            raise ValueError(f"stride_list must be a list of whole numbers, got {stride_list!r}")
        spec = spec.replace(strides=tuple(stride_list))
    return spec


def family_spec(
    scale: float = 1.0,
    act: str = "hardswish",
    se: str = LAST_TWO,
    kernel5: str = LAST_SEVEN,
    last_width: int = BASE_LAST_WIDTH,
    dropout: float = 0.2,
) -> LCNetSpec:
    """A network of the family from the fields of its spec. Raises ValueError or TypeError for what is none."""
    return LCNetSpec(scale, act, str(se), str(kernel5), last_width, dropout)


def searched_spec(arch: str, dropout_prob: float | None = None) -> NetworkSpec:
    """The network that a text describes, see `ppcls_ext.models.network_spec.parse_spec`; a change to it."""
    spec = parse_spec(arch)
    return spec.replace(dropout=dropout_prob) if dropout_prob is not None and spec.last_width else spec


def spec_of_arch(arch: Mapping[str, Any]) -> NetworkSpec:
    """The network of an `Arch` section, by the keys that `build_arch` builds it by, without building it.

    Args:
        arch: its name is one of `SPECS`, `PPLCNet` or `SEARCHED`.
    Raises:
        UserError: an unknown key, or a value that the network refuses.
    """
    name, keys = arch["name"], {key: value for key, value in arch.items() if key != "name"}
    others: dict[str, Callable[..., Any]] = {FAMILY: family_spec, SEARCHED: searched_spec}
    factory = others.get(name) or functools.partial(named_spec, name)
    check_numbers(keys, "Arch")
    known = accepted_keys(ARCHS[name])
    for key in keys:
        if key not in known:
            raise UserError(f"Arch.{key}: unknown key; {nearest(str(key), known)}")
    told = accepted_keys(factory)  # the others say nothing of its shape
    spec = call_checked(factory, {key: value for key, value in keys.items() if key in told}, "Arch")
    return spec.network() if isinstance(spec, LCNetSpec) else spec


def build_named(
    name: str,
    pretrained: bool | str = False,
    use_ssld: bool = False,
    class_num: int = 1000,
    dropout_prob: float | None = None,
    class_expand: int | None = None,
    use_last_conv: bool = True,
    lr_mult_list: Sequence[float] = EVEN_RATES,
    stride_list: Sequence[int] | None = None,
    return_patterns: Sequence[str] | None = None,
    return_stages: bool | int | Sequence[int] | None = None,
) -> PPLCNet:
    """Build the network `name` of `ppcls_ext.models.spec.SPECS` with the keyword arguments of PaddleClas's factories.

    Args:
        pretrained: a `.pdparams` path, or True to download the public ImageNet weights.
        use_ssld: accepted for PaddleClas's configs; the public SSLD weights have to be given as a path.
        dropout_prob, class_expand, use_last_conv, stride_list: changes to the named spec.
    """
    _check_kinds(return_patterns, return_stages)
    spec = named_spec(name, dropout_prob, class_expand, use_last_conv, stride_list)
    model = theseus_class()(spec, class_num, lr_mult_list)
    model.init_res(list(STAGES), return_patterns=return_patterns, return_stages=return_stages)
    if pretrained is True and use_ssld:
        raise UserError("Arch.use_ssld: download the SSLD weights and give their path as Arch.pretrained")
    load_public(model, name, pretrained)
    return model


def _check_kinds(return_patterns: Any, return_stages: Any) -> None:
    """Raise ValueError for what PaddleClas would take as something else, and say nothing."""
    if return_patterns is not None and not _holds(return_patterns, str):
        raise ValueError(f"return_patterns must be a list of names of layers, got {return_patterns!r}")
    if not (return_stages is None or isinstance(return_stages, int) or _holds(return_stages, int)):
        raise ValueError(f"return_stages must be true, a number or a list of numbers, got {return_stages!r}")


def _holds(value: Any, kind: type) -> bool:
    return isinstance(value, (list, tuple)) and all(isinstance(part, kind) for part in value)


def load_public(model: nn.Layer, name: str, pretrained: bool | str) -> None:
    """Act on a factory's `pretrained`: False does nothing, True downloads the public weights, a path is loaded."""
    if pretrained:
        path = download_weights(name) if pretrained is True else Path(str(pretrained))
        load_into(model, read_weights(path), path)


def download_weights(name: str) -> Path:
    """Fetch the public weights of a network; gives the local file. Raises UserError where that cannot be done."""
    url = public_weights(name)
    if url is None:
        raise UserError(f"Arch.pretrained: no public weights are known for {name}; give the path of a .pdparams file")
    try:
        return download(url)
    except ConnectionError as error:
        raise UserError(
            f"cannot download {url} ({error}); fetch it elsewhere and give its path with "
            "-o Global.pretrained_model=FILE"
        ) from error


def build_spec(
    scale: float = 1.0,
    act: str = "hardswish",
    se: str = LAST_TWO,
    kernel5: str = LAST_SEVEN,
    last_width: int = BASE_LAST_WIDTH,
    dropout: float = 0.2,
    class_num: int = 1000,
    lr_mult_list: Sequence[float] = EVEN_RATES,
) -> PPLCNet:
    """Build a network of the family from the fields of its spec: `Arch: {name: PPLCNet, scale: 0.4, se: ...}`."""
    spec = family_spec(scale, act, se, kernel5, last_width, dropout)
    return theseus_class()(spec, class_num, lr_mult_list)


def build_searched(
    arch: str,
    class_num: int = 1000,
    dropout_prob: float | None = None,
    pretrained: bool | str = False,
    lr_mult_list: Sequence[float] = EVEN_RATES,
) -> PPLCNet:
    """Build any network of the space: `Arch: {name: LCNetSearched, arch: "stem16 | ds-c32 | ..."}`.

    Args:
        arch: the text of its spec, see `ppcls_ext.models.network_spec.parse_spec`.
        dropout_prob: a change to the spec.
        pretrained: a `.pdparams` path; there are no public weights.
    """
    model = theseus_class()(searched_spec(arch, dropout_prob), class_num, lr_mult_list)
    load_public(model, SEARCHED, pretrained)
    return model


def _factory(name: str) -> Callable[..., PPLCNet]:
    @functools.wraps(build_named)
    def build(*args: Any, **kwargs: Any) -> PPLCNet:
        return build_named(name, *args, **kwargs)

    signature = inspect.signature(build_named)
    build.__signature__ = signature.replace(parameters=list(signature.parameters.values())[1:])  # type: ignore[attr-defined]
    build.__name__ = build.__qualname__ = name
    return build


def _newer_factory(name: str) -> Callable[..., PPLCNet]:
    def build(
        class_num: int = 1000, pretrained: bool | str = False, lr_mult_list: Sequence[float] = EVEN_RATES
    ) -> PPLCNet:
        model = theseus_class()(NEWER[name], class_num, lr_mult_list)
        load_public(model, name, pretrained)
        return model

    build.__name__ = build.__qualname__ = name
    return build


def hgnet_v2_b0(class_num: int = 1000, pretrained: bool | str = False) -> PPHGNetV2:
    """PP-HGNetV2-B0, which paddleclas 2.4.2 does not have."""
    model = PPHGNetV2(class_num=class_num)
    load_public(model, "PPHGNetV2_B0", pretrained)
    return model


def lcnet_v2_small(class_num: int = 1000, pretrained: bool | str = False) -> nn.Layer:
    """PP-LCNetV2-small: the class is in paddleclas 2.4.2, its smaller sizes are not."""
    with parameter_names_may_repeat():
        module = ppcls("arch.backbone.legendary_models.pp_lcnet_v2")
        model = module.PPLCNetV2(scale=0.75, depths=[2, 2, 4, 2], dropout_prob=0.2, class_num=class_num)
    load_public(model, "PPLCNetV2_small", pretrained)
    return model


def starnet_s1(class_num: int = 1000, pretrained: bool | str = False) -> nn.Layer:
    """StarNet-S1, which paddleclas 2.4.2 does not have."""
    model = star_net_s1(class_num)
    load_public(model, "StarNet_S1", pretrained)
    return model


def fasternet_t0(class_num: int = 1000, pretrained: bool | str = False) -> nn.Layer:
    """FasterNet-T0, which paddleclas 2.4.2 does not have."""
    model = faster_net_t0(class_num)
    load_public(model, "FasterNet_T0", pretrained)
    return model


for _name in SPECS:
    ARCHS.register(_name, _factory(_name))
for _name in NEWER:
    ARCHS.register(_name, _newer_factory(_name))
ARCHS.register("PPHGNetV2_B0", hgnet_v2_b0)
ARCHS.register("StarNet_S1", starnet_s1)
ARCHS.register("FasterNet_T0", fasternet_t0)
ARCHS.register("PPLCNetV2_small", lcnet_v2_small)
ARCHS.register(FAMILY, build_spec)
ARCHS.register(SEARCHED, build_searched)


def register_with_paddleclas(arch: Any) -> None:
    """Put our factories where PaddleClas looks names up: `ppcls.arch` and `ppcls.arch.backbone`.

    The names of the eight scales are PaddleClas's own too, and are meant to be replaced. Any other name that
    is taken there by something else raises KeyError, which names the owner.
    """
    for name in SPECS:
        owner = getattr(arch, name, None)
        theirs = getattr(owner, "__module__", "").startswith(("ppcls.", "paddleclas."))
        if owner is not None and owner is not ARCHS[name] and not theirs:
            raise KeyError(f"architecture '{name}' is already registered by {owner.__module__}.{owner.__qualname__}")
        setattr(arch, name, ARCHS[name])
        setattr(arch.backbone, name, ARCHS[name])


def known_archs() -> dict[str, Callable[..., Any]]:
    """Every name that `Arch.name` may have, with its factory; ours come first."""
    backbone = ppcls("arch.backbone")
    theirs = {
        name: factory
        for name, factory in vars(backbone).items()
        if callable(factory)
        and name[0].isupper()
        and getattr(factory, "__module__", "").startswith("ppcls.arch.backbone")
    }
    return {**theirs, **ARCHS}


def build_arch(arch: Mapping[str, Any], class_num: int | None = None) -> nn.Layer:
    """Build the network that an `Arch` section describes.

    Args:
        arch: `name` and the factory's keyword arguments.
        class_num: classes of the head, where the section leaves it to the data.
    Raises:
        UserError: an unknown name or key, or a value that the network refuses.
    """
    kwargs = dict(arch)
    name = kwargs.pop("name", None)
    if name is None:
        raise UserError("Arch.name is missing: say which network to build, such as PPLCNet_x1_0")
    if not isinstance(name, str):
        raise UserError(f"Arch.name: expected the name of a network, got {shown(name)}")
    check_numbers(kwargs, "Arch")
    if name in ARCHS:
        factory = ARCHS[name]
    else:
        names = known_archs()
        if name not in names:
            raise UserError(f"Arch.name: no network '{name}'; {nearest(name, names)}")
        factory = names[name]
    if class_num is not None:
        kwargs["class_num"] = class_num
    if name in ARCHS:
        return call_checked(factory, kwargs, "Arch")
    known = network_keys(factory)
    for key in kwargs:
        if known is not None and key not in known:
            raise UserError(f"Arch.{key}: unknown key; {nearest(str(key), known)}")
    pretrained = kwargs.pop("pretrained", False)  # not for PaddleClas, which would unpickle the file
    try:
        with parameter_names_may_repeat():
            model = factory(**kwargs)
    except (TypeError, ValueError, AssertionError, KeyError, IndexError, AttributeError, ZeroDivisionError) as error:
        raise UserError(f"Arch: {name} refuses {shown(kwargs)}: {' '.join(str(error).split())}") from error
    load_public(model, name, pretrained)
    return model
