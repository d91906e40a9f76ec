"""Rules for PostgreSQL's settings, as `gucs.toml` has them: read, and checked."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Literal, TypeAlias, TypeVar, get_args

from ragline.errors import ConfigError, UsageError

Stage = Literal["A", "B", "C", "D"]
STAGES: tuple[Stage, ...] = get_args(Stage)
Profile = Literal["staged", "small"]
System = Literal["linux", "darwin", "other"]
Disk = Literal["hdd", "ssd", "nvme"]
Context = Literal["postmaster", "sighup", "superuser", "user"]
Unit = Literal["bytes", "number", "word"]
Better = Literal["more", "less", "same", "ranked"]
VERSIONS = range(14, 19)
"""Of PostgreSQL, those that the rules are for."""

_UNITS = {"TB": 1024**4, "GB": 1024**3, "MB": 1024**2, "kB": 1024, "B": 1}
_SIZE = re.compile(r"(\d+) ?(B|kB|MB|GB|TB)")
_SAID = re.compile(r"(\d{1,9}(?:\.\d{1,6})?)\s*([kmgtp])(?:i?b)?", re.IGNORECASE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """What a setting is. `ranks` are its words from worst to best, where `better` is "ranked"."""

    name: str
    context: Context
    unit: Unit
    better: Better
    ranks: tuple[tuple[str, ...], ...] = ()
    since: int = VERSIONS.start
    until: int = VERSIONS.stop - 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Cores:
    """A number that follows the cores: so many for each, and some more."""

    per: Fraction
    plus: int


Amount: TypeAlias = "Fraction | Cores | str"
"""A share of the memory, something by the cores, or a value as it is written."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """What one setting should be, and where that holds. `says` has no entry where it is left alone."""

    name: str
    reason: str
    source: str
    profile: Profile
    stages: tuple[Stage, ...]
    systems: tuple[System, ...]
    disks: tuple[Disk, ...]
    since: int
    until: int
    least_cores: int
    least_shared_buffers: int
    has: str | None
    unknown: str
    says: Mapping[Stage, Amount]
    floors: Mapping[Stage, str]
    caps: Mapping[Stage, str]
    most: Fraction | None
    of_free_disk: Fraction | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """All settings that are known, in the order in which they are shown, and all rules."""

    settings: Mapping[str, Setting]
    rules: tuple[Rule, ...]

    def of(self, name: str, profile: Profile) -> tuple[Rule, ...]:
        """Return the rules of a setting; the first that fits decides."""
        return tuple(r for r in self.rules if r.name == name and r.profile == profile)


def rules(text: str, source: str = "gucs.toml") -> Rules:
    """Return the rules that TOML says; ConfigError names the entry and the key that is wrong."""
    try:
        found = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{source} is not TOML: {error}") from error
    settings = {
        name: _setting(_Entry(entry, f"{source}, setting {name}"), name)
        for name, entry in found.get("setting", {}).items()
    }
    made = tuple(
        _rule(_Entry(entry, f"{source}, rule {at} ({entry.get('name')})"), settings)
        for at, entry in enumerate(found.get("rule", []), 1)
    )
    if silent := set(settings) - {rule.name for rule in made}:
        raise ConfigError(f"{source} has no rule for {', '.join(sorted(silent))}")
    return Rules(settings=settings, rules=made)


def size(text: str) -> int:
    """Return the bytes of a size as PostgreSQL writes it: "8GB", "64 kB"."""
    found = _SIZE.fullmatch(text.strip())
    if found is None:
        raise UsageError(f"{text!r} is no size; write a whole number with B, kB, MB, GB or TB")
    return int(found.group(1)) * _UNITS[found.group(2)]


def memory(text: str) -> int:
    """Return the bytes of an amount as people say it: "128GiB", "128GB" and "128g" are the same.

    As in PostgreSQL's own settings a GB is 1024 MB.
    """
    found = _SAID.fullmatch(text.strip())
    asked = "write an amount with a unit, from 256MB to 16TB, such as 128GiB"
    if found is None:
        raise UsageError(f"--ram is {text!r}; {asked}")
    power = "kmgtp".index(found.group(2).lower()) + 1
    amount = int(Fraction(found.group(1)) * 1024**power)
    if not 256 * 1024**2 <= amount <= 16 * 1024**4:
        raise UsageError(f"--ram is {text!r}; {asked}")
    return amount


def version(text: str) -> int:
    """Return the major version of PostgreSQL of "14", or of "14.18"."""
    found = re.fullmatch(r"(\d{1,3})(?:\.\d{1,4})?", text.strip())
    if found is None or int(found.group(1)) not in VERSIONS:
        raise UsageError(
            f"--pg-version is {text!r}; the rules are for PostgreSQL {VERSIONS.start} to "
            f"{VERSIONS.stop - 1}: write a number such as {VERSIONS.stop - 1}"
        )
    return int(found.group(1))


def written(amount: int) -> str:
    """Return a size as PostgreSQL takes it, in the largest unit that leaves a whole number."""
    unit = next(unit for unit, size in _UNITS.items() if amount % size == 0) if amount else "B"
    return f"{amount // _UNITS[unit]}{unit}"


def rounded(amount: int) -> int:
    """Return a size as people write it: at most four binary digits, and whole megabytes."""
    step = _step(amount)
    return max(_UNITS["MB"], (amount + step // 2) // step * step)


def whole(amount: int) -> int:
    """Return a size rounded down to whole megabytes, and of large ones to four binary digits."""
    step = _step(amount)
    return max(_UNITS["MB"], amount // step * step)


def _step(amount: int) -> int:
    return max(_UNITS["MB"], 1 << max(0, amount.bit_length() - 4))


T = TypeVar("T")
D = TypeVar("D")


class _Entry:
    """A table of the file, whose keys are taken one by one; what is left over is unknown."""

    def __init__(self, entry: Mapping[str, Any], where: str) -> None:
        self.rest = dict(entry)
        self.where = where

    def fault(self, what: str) -> ConfigError:
        return ConfigError(f"{self.where}: {what}")

    def take(self, key: str, read: Callable[[Any], T], default: D) -> T | D:
        return self._read(key, read) if key in self.rest else default

    def _read(self, key: str, read: Callable[[Any], T]) -> T:
        value = self.rest.pop(key)
        try:
            return read(value)
        except (ValueError, TypeError, KeyError, UsageError, ZeroDivisionError) as error:
            raise self.fault(f"{key} is {value!r} ({error})") from error

    def need(self, key: str, read: Callable[[Any], T]) -> T:
        if self.rest.get(key, "") == "":
            raise self.fault(f"{key} is missing")
        return self._read(key, read)

    def text(self, key: str) -> str:
        return self.need(key, str)

    def end(self) -> None:
        if self.rest:
            raise self.fault(f"unknown keys {', '.join(sorted(self.rest))}")


def _setting(entry: _Entry, name: str) -> Setting:
    made = Setting(
        name=name,
        context=entry.need("context", _one_of(get_args(Context))),
        unit=entry.need("unit", _one_of(get_args(Unit))),
        better=entry.need("better", _one_of(get_args(Better))),
        ranks=entry.take("ranks", lambda ranks: tuple(tuple(map(str, r)) for r in ranks), ()),
        since=entry.take("since", _version, VERSIONS.start),
        until=entry.take("until", _version, VERSIONS.stop - 1),
    )
    if (made.better == "ranked") != bool(made.ranks):
        raise entry.fault('ranks go with better = "ranked", and only with it')
    entry.end()
    return made


def _rule(entry: _Entry, settings: Mapping[str, Setting]) -> Rule:
    name = entry.text("name")
    if name not in settings:
        raise entry.fault(f"there is no [setting.{name}]")
    stages: tuple[Stage, ...] = entry.take("stages", _some_of(STAGES), STAGES)
    made = Rule(
        name=name,
        reason=entry.text("reason"),
        source=entry.text("source"),
        profile=entry.take("profile", _one_of(get_args(Profile)), "staged"),
        stages=stages,
        systems=entry.take("systems", _some_of(get_args(System)), get_args(System)),
        disks=entry.take("disks", _some_of(get_args(Disk)), ()),
        since=entry.take("since", _version, VERSIONS.start),
        until=entry.take("until", _version, VERSIONS.stop - 1),
        least_cores=entry.take("least_cores", int, 0),
        least_shared_buffers=entry.take("least_shared_buffers", size, 0),
        has=entry.take("has", str, None),
        unknown=entry.take("unknown", str, ""),
        says=_says(entry, stages),
        floors=entry.take("floor", _by_stage(str, stages), {}),
        caps=entry.take("cap", _by_stage(str, stages), {}),
        most=entry.take("most", _share, None),
        of_free_disk=entry.take("of_free_disk", _share, None),
    )
    _check_amounts(made, settings[name].unit, entry)
    entry.end()
    return made


def _says(entry: _Entry, stages: tuple[Stage, ...]) -> Mapping[Stage, Amount]:
    given = [key for key in ("share", "value", "cores", "leave") if key in entry.rest]
    if len(given) != 1:
        raise entry.fault("say one of share, value, cores and leave")
    readers: Mapping[str, Callable[[Any], Mapping[Stage, Amount]]] = {
        "share": _by_stage(_share, stages),
        "value": _by_stage(str, stages),
        "cores": _by_stage(_cores, stages),
        "leave": lambda _: {},
    }
    return entry.take(given[0], readers[given[0]], {})


def _check_amounts(rule: Rule, unit: Unit, entry: _Entry) -> None:
    """Refuse what could not be compared: a share of something that is no size, a cap that is none."""
    said = list(rule.says.values())
    if unit != "bytes" and any(isinstance(one, Fraction) for one in said):
        raise entry.fault("a share of the memory is for settings in bytes")
    texts = [*(one for one in said if isinstance(one, str)), *rule.floors.values()]
    for text in [*texts, *rule.caps.values()]:
        try:
            if unit == "bytes":
                size(text)
            elif unit == "number":
                float(text)
        except (ValueError, UsageError) as error:
            raise entry.fault(f"{text!r} is not in {unit}") from error


def _by_stage(
    read: Callable[[Any], T], stages: tuple[Stage, ...]
) -> Callable[[Any], dict[Stage, T]]:
    """Return a reader of one value for all stages, or of a table with one for each."""

    def reader(value: Any) -> dict[Stage, T]:
        if isinstance(value, Mapping) and set(value) & set(STAGES):
            return {_one_of(STAGES)(stage): read(one) for stage, one in value.items()}
        return {stage: read(value) for stage in stages}

    return reader


def _one_of(words: Iterable[T]) -> Callable[[Any], T]:
    by_word = {word: word for word in words}

    def reader(value: Any) -> T:
        if value not in by_word:
            raise ValueError(f"not one of {', '.join(map(str, by_word))}")
        return by_word[value]

    return reader


def _some_of(words: tuple[T, ...]) -> Callable[[Any], tuple[T, ...]]:
    return lambda values: tuple(map(_one_of(words), values))


def _share(value: Any) -> Fraction:
    share = Fraction(str(value))
    if not 0 < share <= 1:
        raise ValueError("a share is above 0 and at most 1")
    return share


def _cores(value: Any) -> Cores:
    return Cores(per=Fraction(str(value["per"])), plus=int(value["plus"]))


def _version(value: Any) -> int:
    return _one_of(VERSIONS)(value)
