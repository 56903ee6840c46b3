"""Media, ports and links in words."""

from __future__ import annotations

from collections.abc import Iterable

from dora_nb.domain.cluster import ContentionDomain, DomainKind
from dora_nb.render import words
from dora_nb.units import counted, format_seconds

_MOST_LINES = 4  # ports or links that are told one by one

#: What is held longest of a domain of each kind.
BUSIEST_WORDS: dict[DomainKind, str] = {
    "shared": "airtime",
    "switch": "busiest port",
    "cell": "busiest way",
    "links": "busiest link",
}

_WAYS = {"tx": "sending", "rx": "receiving", "up": "upwards", "down": "downwards"}


def resource_words(resource: str, domain: ContentionDomain) -> str:
    """What a domain's resource is called: ``airtime``, ``laptop sending``, ``upwards``, ``phone to laptop``."""
    if resource == domain.id:
        return "airtime"
    within = resource.removeprefix(f"{domain.id}/")
    if domain.kind == "links":
        sender = next(name for name in domain.members if within.startswith(f"{name}>"))
        return words.one_line(f"{sender} to {within.removeprefix(f'{sender}>')}")
    member, _, way = within.rpartition("/")
    return words.one_line(" ".join(filter(None, [member, _WAYS[way]])))


def rest_words(domain: ContentionDomain, held: Iterable[tuple[str, float]]) -> list[str]:
    """Seconds that further resources of a domain are held, a line each, the last of them together."""
    told = [(resource_words(name, domain), seconds) for name, seconds in held if seconds > 0]
    lines = [f"{name} {format_seconds(seconds)}" for name, seconds in told[:_MOST_LINES]]
    if len(told) > _MOST_LINES:
        lines.append(f"and {counted(len(told) - _MOST_LINES, 'other')}")
    return lines
