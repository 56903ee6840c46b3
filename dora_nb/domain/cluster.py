"""What it runs on: devices, and the media they share."""

from __future__ import annotations

import itertools
import math
from collections.abc import Collection, Mapping
from typing import Any, Literal, Self, TypeVar

from pydantic import Field, model_validator

from dora_nb.domain.layer import OperatorClass, Precision
from dora_nb.domain.record import Record
from dora_nb.errors import InputError, UnknownNameError
from dora_nb.units import Bytes, BytesPerS, FlopsPerS, Fraction, JoulesPerByte, Seconds, Watts

Status = Literal["measured", "datasheet", "computed", "assumed"]


class Provenance(Record):
    """Where a number comes from.

    Attributes
    ----------
    status
        ``measured`` by somebody, from a ``datasheet``, ``computed`` from such numbers, or ``assumed`` by us.
    source
        Who says so, or for a computed or assumed number what it rests on.
    note
        What else a reader should know.
    """

    status: Status
    source: str = Field(min_length=1)
    note: str = ""


class Device(Record):
    """One device: what it can hold, how fast it computes, what it draws.

    Attributes
    ----------
    id
        Name in its cluster, unique there; to run a plan, without slashes and line breaks.
    name
        What people call it.
    profile
        Name of the device model in the catalogue; devices of one profile are interchangeable.
    memory_bytes, usable_memory_fraction
        Installed memory, and the share of it that a model may fill.
    flops_per_s
        Sustained rate by operator class and precision (achieved, not peak). ``lookup`` needs none.
    memory_bytes_per_s
        Sustained memory bandwidth.
    layer_overhead_s
        Fixed seconds per layer call.
    idle_w, active_w
        Draw while waiting and while computing.
    sources
        Provenance of each number, by field path (``flops_per_s.matmul.fp32``).
    """

    id: str = Field(min_length=1)
    profile: str = Field(min_length=1)
    name: str = ""
    memory_bytes: Bytes
    usable_memory_fraction: Fraction = 0.7
    flops_per_s: dict[OperatorClass, dict[Precision, FlopsPerS]]
    memory_bytes_per_s: BytesPerS
    layer_overhead_s: Seconds = 0.0
    idle_w: Watts
    active_w: Watts
    sources: dict[str, Provenance] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.active_w < self.idle_w:
            raise InputError("active_w", self.active_w, f"at least idle_w ({self.idle_w})")
        return self

    @property
    def usable_memory_bytes(self) -> float:
        """Bytes a model may fill."""
        return self.memory_bytes * self.usable_memory_fraction

    def __repr__(self) -> str:
        from dora_nb.render.clusters import device_text  # a method that looks up a room: imported when called

        return device_text(self)

    __str__ = __repr__

    def _repr_html_(self) -> str:
        from dora_nb.render.clusters import device_html

        return device_html(self)


DomainKind = Literal["shared", "switch", "cell", "links"]


class ContentionDomain(Record):
    """Links that share one medium, or one box.

    Its members are devices and other domains: a domain is a member of another through its gateway, which is wired to
    it (an access point with a cable into a switch, a modem), so the gateway costs nothing in the domain itself.

    Attributes
    ----------
    id
        Name in its cluster, unlike that of every device and other domain.
    kind
        ``shared``: one airtime for everybody, as on a Wi-Fi access point; a transfer from u to v of n bytes holds it
        for ``n / rate_u + n / rate_v``. ``switch``: a transmit and a receive port per member; the transfer holds the
        transmit port of u for ``n / rate_u`` and the receive port of v for ``n / rate_v``. ``cell``: one airtime up
        and one down, as in a 4G or 5G cell; the transfer holds the one for ``n / up_u``, the other for ``n / down_v``.
        ``links``: a link of its own per pair and direction, which the transfer holds for ``n / rate_uv``; only at the
        top of the tree of domains.
    rates_bytes_per_s
        Rate at which each member reaches the medium; in a cell upwards, from the member.
    down_rates_bytes_per_s
        Rate to each member of a cell.
    links_bytes_per_s
        Rate from one member to another, of every pair; the other direction has the same unless it is given.
    latency_s
        Seconds per message on top; holds nothing.
    energy_j_per_byte
        Joules per byte carried, all radios or ports of the domain together.
    sources
        Provenance of each number, by field path.
    """

    id: str = Field(min_length=1)
    kind: DomainKind
    rates_bytes_per_s: dict[str, BytesPerS] = Field(default_factory=dict)
    down_rates_bytes_per_s: dict[str, BytesPerS] = Field(default_factory=dict)
    links_bytes_per_s: dict[str, dict[str, BytesPerS]] = Field(default_factory=dict)
    latency_s: Seconds = 0.0
    energy_j_per_byte: JoulesPerByte = 0.0
    sources: dict[str, Provenance] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _check(self) -> Self:
        needed = _RATE_FIELDS[self.kind]
        for name in ("rates_bytes_per_s", "down_rates_bytes_per_s", "links_bytes_per_s"):
            if name in needed and not getattr(self, name):
                raise InputError(name, None, f"a rate for every member of a domain of kind {self.kind}")
            if name not in needed and getattr(self, name):
                raise InputError(name, list(getattr(self, name)), f"nothing: a domain of kind {self.kind} has none")
        for name in needed[1:]:  # the rates down of a cell
            unlike = set(self.rates_bytes_per_s) ^ set(getattr(self, name))
            if unlike:
                raise InputError(name, sorted(unlike), "a rate for the same members as rates_bytes_per_s")
        for a, b in itertools.combinations(self.members, 2) if self.kind == "links" else ():
            if self.link_bytes_per_s(a, b) is None:
                raise InputError(f"links_bytes_per_s.{a}.{b}", None, "a rate for every pair of members")
        for name, others in self.links_bytes_per_s.items():
            if name in others:
                raise InputError(f"links_bytes_per_s.{name}.{name}", others[name], "links from one member to another")
        return self

    @property
    def members(self) -> tuple[str, ...]:
        """Devices and domains that are attached, each once."""
        pairs = ((name, *others) for name, others in self.links_bytes_per_s.items())
        return tuple(dict.fromkeys([*self.rates_bytes_per_s, *itertools.chain.from_iterable(pairs)]))

    def link_bytes_per_s(self, sender: str, receiver: str) -> float | None:
        """Rate of a link, if the pair has one."""
        links = self.links_bytes_per_s
        return links.get(sender, {}).get(receiver, links.get(receiver, {}).get(sender))

    def __repr__(self) -> str:
        from dora_nb.render.clusters import domain_text

        return domain_text(self)

    __str__ = __repr__

    def _repr_html_(self) -> str:
        from dora_nb.render.clusters import domain_html

        return domain_html(self)


#: Where the rates of each kind of domain stand.
_RATE_FIELDS: dict[DomainKind, tuple[str, ...]] = {
    "shared": ("rates_bytes_per_s",),
    "switch": ("rates_bytes_per_s",),
    "cell": ("rates_bytes_per_s", "down_rates_bytes_per_s"),
    "links": ("links_bytes_per_s",),
}


class Cluster(Record):
    """Devices and the media they share.

    Attributes
    ----------
    name, description
        What people call it, and a sentence about it.
    devices
        At least one, each under an id of its own.
    domains
        Contention domains in a tree: every device and every domain but one is a member of exactly one domain. None
        are needed for a single device.
    """

    name: str = Field(min_length=1)
    description: str = ""
    devices: tuple[Device, ...] = Field(min_length=1)
    domains: tuple[ContentionDomain, ...] = ()

    @model_validator(mode="after")
    def _check(self) -> Self:
        ids = [device.id for device in self.devices]
        repeated = next((name for name in ids if ids.count(name) > 1), None)
        if repeated is not None:
            raise InputError("devices", repeated, "every device once, under an id of its own")
        if not self.domains and len(ids) > 1:
            raise InputError("domains", [], "at least one contention domain, so that the devices reach each other")
        names = ids + [domain.id for domain in self.domains]
        for index, domain in enumerate(self.domains):
            if names.count(domain.id) > 1:
                raise InputError(f"domains[{index}].id", domain.id, "a name that no device or other domain has")
        self._check_members(names)
        self._check_tree(ids)
        return self

    def _check_members(self, names: list[str]) -> None:
        """Members exist, and each is attached to one domain."""
        home: dict[str, str] = {}
        for index, domain in enumerate(self.domains):
            field = f"domains[{index}].{_RATE_FIELDS[domain.kind][0]}"
            for name in domain.members:
                if name not in names:
                    raise UnknownNameError(field, name, names)
                if name == domain.id:
                    raise InputError(field, name, "members other than the domain itself")
                if name in home:
                    raise InputError(field, name, f"each device and domain in one domain; it is in {home[name]} too")
                home[name] = domain.id

    def _check_tree(self, ids: list[str]) -> None:
        """Every device is attached, and all domains hang together in one tree."""
        attached = {name for domain in self.domains for name in domain.members}
        missing = [name for name in ids if name not in attached]
        if missing and self.domains:
            only = len(self.domains) == 1
            field = f"domains[0].{_RATE_FIELDS[self.domains[0].kind][0]}" if only else "domains"
            raise InputError(field, missing, "a rate for every device" if only else "every device in one domain")
        tops = [domain for domain in self.domains if domain.id not in attached]
        reached = {domain.id for domain in tops}
        for _ in self.domains:
            reached |= {name for domain in self.domains if domain.id in reached for name in domain.members}
        cycle = [domain.id for domain in self.domains if domain.id not in reached]
        if cycle:
            raise InputError("domains", cycle, "a tree: these are members of each other, in a circle")
        if len(tops) > 1:
            unreached = [domain.id for domain in tops]
            raise InputError("domains", unreached, "one tree: all of these but one must be members of another domain")
        for index, domain in enumerate(self.domains):
            if domain.kind == "links" and domain not in tops:
                raise InputError(f"domains[{index}].kind", "links", "links only at the top of the tree")

    def device(self, device_id: str) -> Device:
        """The device with an id.

        Raises
        ------
        UnknownNameError
            If the cluster has no such device.
        """
        for device in self.devices:
            if device.id == device_id:
                return device
        raise UnknownNameError("device", device_id, self.device_ids)

    def without(self, names: Collection[str]) -> Cluster:
        """The cluster after some devices have left. What has no members any more leaves as well.

        Links need two members: where one is left, that one takes their place in the tree.
        """
        domains = self.domains
        for name in self.device_ids:
            if name in names:
                domains = _without(domains, name)
        return self.replace(devices=tuple(each for each in self.devices if each.id not in names), domains=domains)

    def scaled(
        self,
        *,
        rates: float = 1.0,
        speeds: Mapping[str, float] | None = None,
        memory: Mapping[str, float] | None = None,
    ) -> Cluster:
        """The cluster with faster or slower media and devices, and with more or less memory.

        Parameters
        ----------
        rates
            What all rates of all domains are multiplied by; the seconds per message stay.
        speeds
            By device: what its computing and its memory bandwidth are multiplied by, and its overhead per layer is
            divided by. What it draws stays.
        memory
            By device: what its memory is multiplied by.

        Raises
        ------
        InputError
            If a device is not there, or a factor is not above 0.
        """
        by_field = {"speeds": speeds or {}, "memory": memory or {}}
        for field, factors in by_field.items():
            for name, factor in factors.items():
                if name not in self.device_ids:
                    raise UnknownNameError(field, name, self.device_ids)
                _check_factor(f"{field}.{name}", factor)
        _check_factor("rates", rates)
        devices = tuple(
            _scaled(
                device,
                {
                    "flops_per_s": by_field["speeds"].get(device.id, 1.0),
                    "memory_bytes_per_s": by_field["speeds"].get(device.id, 1.0),
                    "layer_overhead_s": 1 / by_field["speeds"].get(device.id, 1.0),
                    "memory_bytes": by_field["memory"].get(device.id, 1.0),
                },
            )
            for device in self.devices
        )
        fields = ("rates_bytes_per_s", "down_rates_bytes_per_s", "links_bytes_per_s")
        domains = tuple(_scaled(domain, dict.fromkeys(fields, rates)) for domain in self.domains)
        return self.replace(devices=devices, domains=domains)

    @property
    def device_ids(self) -> tuple[str, ...]:
        """Ids in the order of ``devices``."""
        return tuple(device.id for device in self.devices)

    @property
    def domain(self) -> ContentionDomain | None:
        """The domain at the top of the tree, often the only one; None for a single device without any."""
        members = {name for domain in self.domains for name in domain.members}
        return next((domain for domain in self.domains if domain.id not in members), None)

    def __repr__(self) -> str:
        from dora_nb.render.clusters import cluster_text

        return cluster_text(self)

    __str__ = __repr__

    def _repr_html_(self) -> str:
        from dora_nb.render.clusters import cluster_html

        return cluster_html(self)


_Part = TypeVar("_Part", Device, ContentionDomain)


def _scaled(part: _Part, factors: Mapping[str, float]) -> _Part:
    """A device or a domain with some numbers multiplied; their sources say so."""
    changed = {name: factor for name, factor in factors.items() if factor != 1}
    if not changed:
        return part
    sources = dict(part.sources)
    for path, known in part.sources.items():
        factor = changed.get(path.split(".")[0])
        if factor is not None:
            source = f"{factor:.6g} times a number that is {known.status} ({known.source})"
            sources[path] = Provenance(status="assumed", source=source, note=known.note)
    numbers = {name: _times(getattr(part, name), factor) for name, factor in changed.items()}
    return part.replace(**numbers, sources=sources)


def _times(value: Any, factor: float) -> Any:
    """A number, or numbers under names, multiplied."""
    if isinstance(value, dict):
        return {name: _times(each, factor) for name, each in value.items()}
    return value * factor


def _check_factor(field: str, factor: float) -> None:
    if not (factor > 0 and math.isfinite(factor)):
        raise InputError(field, factor, "a finite factor above 0")


def _without(domains: tuple[ContentionDomain, ...], name: str) -> tuple[ContentionDomain, ...]:
    """A tree of domains that a device or a domain has left."""
    home = next((domain for domain in domains if name in domain.members), None)
    if home is None:
        return domains
    rest = [member for member in home.members if member != name]
    if len(rest) < (2 if home.kind == "links" else 1):
        others = tuple(domain for domain in domains if domain is not home)
        return others if home.kind == "links" else _without(others, home.id)
    left = home.replace(
        rates_bytes_per_s=_but(home.rates_bytes_per_s, name),
        down_rates_bytes_per_s=_but(home.down_rates_bytes_per_s, name),
        links_bytes_per_s={
            a: links for a, to in home.links_bytes_per_s.items() if a != name and (links := _but(to, name))
        },
    )
    return tuple(left if domain is home else domain for domain in domains)


def _but(rates: Mapping[str, float], name: str) -> dict[str, float]:
    return {each: rate for each, rate in rates.items() if each != name}
