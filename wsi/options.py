"""What a verb can be told: one frozen dataclass, from which command line, TOML, Python and documentation are made.

A field's type and its marks (`Option`, in ``Annotated``) say how it is written and what may stand in it; the text under
the field says what it means. `check` holds every value to that, in one line whoever gave it. Fields that verbs share
stand in classes of their own, whose first line is the group's title in the help.

Nothing heavy is imported here, nor in the modules of options: `gigamil VERB --help` reads them alone.
"""

import os
import types
import typing
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from functools import cache, wraps
from importlib import import_module
from inspect import get_annotations
from math import isfinite
from numbers import Integral, Real
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from wsi.errors import RequestError
from wsi.progress.stage_events import ran
from wsi.urls import path_of, url_of

NAMES = "GIGAMIL_COLUMNS"
"""Environment variable with the names of columns, ``image_id=slide_id,label=Diagnosis``, for tables that have them."""
NO_LOCK = "GIGAMIL_NO_LOCK"
"""Environment variable that turns claims off, in this process and in those that it starts."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Option:
    """A mark of a field: how it is written, and what may stand in it. The marks of one field add up."""

    name: str = ""
    """On the command line and in TOML, where it is not the field's."""
    short: str = ""
    """One letter with its dash."""
    formerly: tuple[str, ...] = ()
    """Names that it had, with their dashes: refused with the name of today."""
    argument: str = ""
    """It stands by its place, shown so in the help."""
    one: bool = False
    """An argument of one word, although the field holds several values."""
    commas: bool = False
    """Several values may also stand in one word, with commas between them."""
    rest: str = ""
    """The field that takes the further values, where several are given."""
    least: float | None = None
    above: float | None = None
    most: float | None = None
    below: float | None = None
    expected: str = ""
    """What may stand there, where the bounds do not tell it."""
    check: str = ""
    """``module:function`` that raises `RequestError` for what may not stand there."""
    remote: str = ""
    """Of URLs that stand there: streamed (read by ranges), output (written), items (the verb's own matter), local (none
    may); otherwise what they lead to is fetched first."""
    plugins: str = ""
    """Group of entry points whose names may stand there, too: other packages' choices beside ours."""
    environment: str = ""
    """Variable by which the value reaches the processes that the verb starts; `stage`."""
    given_for: str = ""
    """The field by which somebody else decides what is not given: this one names, among its choices, what is."""

    def fits(self, value: float) -> bool:
        """Tell whether a number is within the bounds; NaN never is."""
        return (
            (self.least is None or value >= self.least)
            and (self.above is None or value > self.above)
            and (self.most is None or value <= self.most)
            and (self.below is None or value < self.below)
            and isfinite(value)
        )

    def told(self, kind: str) -> str:
        """Return what may stand there, for a person: what kind of value it must be, and within which bounds."""
        return self.expected or ", ".join(filter(None, [kind, self.bounds]))

    @property
    def bounds(self) -> str:
        """The bounds, for a person."""
        match (self.least, self.above, self.most, self.below):
            case (None, None, None, None):
                return ""
            case (least, None, None, None):
                return f"{least:g} or more"
            case (None, above, None, None):
                return f"above {above:g}"
            case (least, None, most, None) if least is not None:
                return f"{least:g} to {most:g}"
            case (least, None, None, below) if least is not None:
                return f"{least:g} or more, below {below:g}"
            case (None, above, most, None) if above is not None:
                return f"above {above:g}, at most {most:g}"
        return f"between {self.above:g} and {self.below:g}"


def at_least(least: float) -> Option:
    """Return the mark of a number with a lower bound."""
    return Option(least=least)


class _Unfit(Exception):
    """A value is not of the kind; its arguments are what was expected and what was found."""


@dataclass(frozen=True, slots=True)
class Spec:
    """One field as everybody sees it: Python, the command line, TOML."""

    field: str
    kind: Any
    """Its type."""
    mark: Option
    default: Any
    """`dataclasses.MISSING` where it must be given."""
    group: type
    """The class that it stands in."""

    @property
    def name(self) -> str:
        """The name on the command line, without dashes before it."""
        return self.mark.name or self.field.replace("_", "-")

    @property
    def key(self) -> str:
        """The name in TOML."""
        key = self.name.replace("-", "_")
        return key if key.isidentifier() else self.field

    @property
    def shown(self) -> str:
        """What a message calls it."""
        return self.mark.argument.partition(" [")[0].strip("[]. ") or f"--{self.name}"

    @property
    def choices(self) -> tuple[str, ...]:
        """The values that may stand there, where they can be counted."""
        return tuple(dict.fromkeys(_literals(self.kind)))

    @property
    def several(self) -> bool:
        """Whether it may be given several times."""
        return any(typing.get_origin(kind) is tuple for kind in _kinds(self.kind)) or bool(self.mark.rest)

    def read(self, value: Any, *, text: bool = False) -> Any:
        """Return a value as the field wants it; of the command line it is ``text``. Raises `RequestError` in a line."""
        if self.mark.commas and isinstance(value, str) and not self.mark.rest:
            value = [own.strip() for own in value.split(",") if own.strip()]
        try:
            return self._within(_fitted(self.kind, value, text, self.mark.plugins))
        except _Unfit as unfit:
            expected, found = unfit.args
            raise RequestError(f"{self.shown} {found}: expected {self.mark.told(expected)}") from None

    def _within(self, value: Any) -> Any:
        for own in value if isinstance(value, tuple) else (value,):
            if _is_number(own, Real) and not self.mark.fits(float(own)):
                raise _Unfit("" if self.mark.bounds and isfinite(own) else "a finite number", own)
        if self.mark.check and value not in (None, "", ()):
            module, _, name = self.mark.check.partition(":")
            getattr(import_module(module), name)(value)
        return value


def _kinds(kind: Any) -> tuple[Any, ...]:
    return typing.get_args(kind) if typing.get_origin(kind) in (typing.Union, types.UnionType) else (kind,)


def _literals(kind: Any) -> Iterator[str]:
    for own in _kinds(kind):
        if typing.get_origin(own) is Literal:
            yield from typing.get_args(own)
        elif typing.get_origin(own) is tuple:
            yield from _literals(typing.get_args(own)[0])


def _fitted(kind: Any, value: Any, text: bool, group: str = "") -> Any:
    """Return the value as the type wants it; `_Unfit` where it cannot be. ``group``: `Option.plugins`."""
    kinds = _kinds(kind)
    if len(kinds) > 1:
        return _fitted_to_one(kinds, value, text, group)
    if typing.get_origin(kind) is tuple:
        several = value if isinstance(value, Sequence) and not isinstance(value, str) else (value,)
        return tuple(_fitted(typing.get_args(kind)[0], own, text, group) for own in several)
    if typing.get_origin(kind) is Literal:
        names = [*typing.get_args(kind), *(_plugins(group) if value not in typing.get_args(kind) else ())]
        if value in names:
            return value
        *others, last = names
        raise _Unfit(f"one of {', '.join([*others, last])}" if len(others) > 1 else " or ".join([*others, last]), value)
    return _SCALARS[kind](value, text)


def _plugins(group: str) -> list[str]:
    """Return the names of a group's entry points; nothing of theirs is imported."""
    from importlib.metadata import entry_points

    return [point.name for point in entry_points(group=group)] if group else []


def _fitted_to_one(kinds: Sequence[Any], value: Any, text: bool, group: str) -> Any:
    if value is None and types.NoneType in kinds:
        return None
    told = []
    for kind in kinds:
        try:
            return None if kind is types.NoneType and value is None else _fitted(kind, value, text, group)
        except (_Unfit, KeyError) as unfit:
            told += [unfit.args[0]] if isinstance(unfit, _Unfit) else []
    raise _Unfit(" or ".join(told), value)


def _bool(value: Any, text: bool) -> bool:
    if not isinstance(value, bool):
        raise _Unfit("true or false", value)
    return value


def _is_number(value: Any, kind: type) -> bool:
    return isinstance(value, kind) and not isinstance(value, bool)


def _int(value: Any, text: bool) -> int:
    try:
        return int(value if text or _is_number(value, Integral) else "")
    except ValueError:
        raise _Unfit("a whole number", value) from None


def _float(value: Any, text: bool) -> float:
    try:
        return float(value if text or _is_number(value, Real) else "")
    except ValueError:
        raise _Unfit("a number", value) from None


def _str(value: Any, text: bool) -> str:
    if not isinstance(value, str):
        raise _Unfit("a text", value)
    return value


def _path(value: Any, text: bool) -> Path:
    if not isinstance(value, str | os.PathLike):
        raise _Unfit("a path", value)
    return path_of(value)


_SCALARS: dict[Any, Callable[[Any, bool], Any]] = {bool: _bool, int: _int, float: _float, str: _str, Path: _path}


@cache
def specs(options: Any) -> tuple[Spec, ...]:
    """Return the fields of a class of options, in the order of help, TOML and reference.

    First those that stand by their place, shared ones before its own, as Python orders them;
    then the others group by group, its own first.
    """
    hints = typing.get_type_hints(options, include_extras=True)
    groups = {name: group for group in reversed(options.__mro__) for name in get_annotations(group)}
    order = [group for group in options.__mro__ if group in groups.values()]
    found = [_spec(hints[own.name], own.name, own.default, groups[own.name]) for own in fields(options)]
    return tuple(sorted(found, key=lambda spec: -1 if spec.mark.argument else order.index(spec.group)))


def _spec(hint: Any, name: str, default: Any, group: type) -> Spec:
    kind, marks = _unmarked(hint)
    mark = Option()
    for own in marks:
        said = {part.name: (getattr(own, part.name), part.default) for part in fields(Option)}
        mark = replace(mark, **{part: value for part, (value, default) in said.items() if value != default})
    return Spec(name, kind, mark, default, group)


def _unmarked(hint: Any) -> tuple[Any, tuple[Option, ...]]:
    """Return a type without its marks, and those, wherever in it they stand."""
    if typing.get_origin(hint) is Annotated:
        kind, *marks = typing.get_args(hint)
        inner, more = _unmarked(kind)
        return inner, (*more, *marks)
    if typing.get_origin(hint) is tuple:
        inner, marks_of_each = _unmarked(typing.get_args(hint)[0])
        return types.GenericAlias(tuple, (inner, ...)), marks_of_each
    if len(_kinds(hint)) > 1:
        parts = [_unmarked(own) for own in _kinds(hint)]
        return typing.Union[tuple(own for own, _ in parts)], tuple(mark for _, marks in parts for mark in marks)  # noqa: UP007
    return hint, ()


def check(options: Any) -> None:
    """Hold every field to its type and its marks; paths and lists may be given as texts and other sequences.

    Raises
    ------
    RequestError
        A value does not fit: what was expected, and what was found.
    """
    kind: Any = type(options)
    for spec in specs(kind):
        value = getattr(options, spec.field)
        fitted = spec.read(value)
        if fitted != value or repr(fitted) != repr(value):  # a URL that `pathlib` took for a path equals it
            object.__setattr__(options, spec.field, fitted)


def decided(options: Any) -> tuple[str, ...]:
    """Return the fields that somebody else may decide where they are not given (`Option.given_for`)."""
    return next((spec.choices for spec in specs(options) if spec.mark.given_for), ())


def with_given(options: Any, values: Mapping[str, Any]) -> dict[str, Any]:
    """Return a class's values, with the names of those that are given and that somebody else would decide otherwise."""
    for spec in specs(options):
        if spec.mark.given_for and values.get(spec.mark.given_for):
            given = [*values.get(spec.field, ()), *(name for name in spec.choices if name in values)]
            return {**values, spec.field: tuple(dict.fromkeys(given))}
    return dict(values)


def shared(wanted: type, options: Any) -> dict[str, Any]:
    """Return the fields of other options that a class of options has, too: to make the one of the other."""
    names = {own.name for own in fields(wanted)}
    return {own.name: getattr(options, own.name) for own in fields(options) if own.name in names}


_Stage = TypeVar("_Stage", bound=Callable[..., Any])


def stage(function: _Stage) -> _Stage:
    """Let a verb's function, and every process that it starts, know what its options say to the whole of them.

    The event log is told of its beginning and its end (`wsi.progress.stage_events`).
    Where options name URLs, the function gets this machine's copies of what they lead to (`wsi.remote.staged`).
    """

    @wraps(function)
    def run(options: Any, *arguments: Any, **named: Any) -> Any:
        with in_environment(options):
            return ran(_of_urls(function) if names_urls(options) else function, options, *arguments, **named)

    return typing.cast("_Stage", run)


def _of_urls(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return a verb's function as one that takes URLs."""

    @wraps(function)
    def run(options: Any, *arguments: Any, **named: Any) -> Any:
        return import_module("wsi.remote.staged").run_staged(function, options, *arguments, **named)

    return run


def names_urls(options: Any) -> bool:
    """Tell whether a URL stands where a path may."""
    kind: Any = type(options)
    for spec in specs(kind):
        if spec.mark.remote or "Path" in str(spec.kind):
            value = getattr(options, spec.field)
            several = value if isinstance(value, tuple) else (value,)
            if any(isinstance(own, str | Path) and url_of(own) for own in several):
                return True
    return False


@contextmanager
def in_environment(options: Any) -> Iterator[None]:
    """Let what is called in the block, and every process it starts, know what options say to the whole of them."""
    kind: Any = type(options)
    said = {spec.mark.environment: getattr(options, spec.field) for spec in specs(kind)}
    said = {name: "1" if value is True else str(value) for name, value in said.items() if name and value}
    before = {name: os.environ.get(name) for name in said}
    os.environ.update(said)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
