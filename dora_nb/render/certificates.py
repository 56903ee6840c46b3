"""How good a plan is proven to be, name by name."""

from __future__ import annotations

from dora_nb.domain.certificate import Certificate, SecondSolve
from dora_nb.domain.qoe import Unit
from dora_nb.render import svg, words


def certificate_pairs(certificate: Certificate) -> list[tuple[str, str]]:
    """A certificate as names with a text each."""
    unit: Unit = certificate.unit
    limits: list[tuple[str, float | None, Unit]] = [
        ("latency", certificate.latency_limit_s, "s"),
        ("energy", certificate.energy_limit_j, "J"),
    ]
    within = [f"{name} at most {_precise(limit, of)}" for name, limit, of in limits if limit is not None]
    then = certificate.then
    return [
        ("minimised", f"{certificate.objective}, in {unit}{', soft limits priced' if certificate.with_prices else ''}"),
        ("within", ", ".join(within) or "no limit on the whole plan"),
        ("limits asked for", "; ".join(map(words.limit_words, certificate.limits)) or "none"),
        ("this plan", _precise(certificate.value, unit)),
        ("bound", f"{_precise(certificate.bound, unit)}: no plan considered can be below it"),
        ("gap", f"{100 * certificate.gap:.4f} % ({certificate.status})"),
        *([] if then is None else [("then", _second_words(then))]),
        ("considered", certificate.scope),
        ("proved by", f"{certificate.solver} ({certificate.solver_reason})"),
    ]


def certificate_text(certificate: Certificate) -> str:
    """A certificate as lines, a name with its text in each."""
    named = certificate_pairs(certificate)
    widest = max(len(name) for name, _ in named)
    return "\n".join(words.one_line(f"{name:<{widest}}  {text}") for name, text in named)


def _precise(value: float, unit: Unit) -> str:
    """A figure with six digits, in which a value and its bound differ where others show them alike."""
    scale, scaled = (svg.time_scale if unit == "s" else svg.energy_scale)(value)
    return f"{value / scale:,.6g} {scaled}"


def _second_words(then: SecondSolve) -> str:
    """The tie-break in words."""
    say = words.seconds_words if then.unit == "s" else words.joules_words
    return (
        f"of equally good plans the least {then.objective}: {say(then.value)}, bound {say(then.bound)}, gap "
        f"{100 * then.gap:.4f} %"
    )
