"""Conditions as text and as HTML."""

from __future__ import annotations

from dora_nb.domain.conditions import Condition, Conditions
from dora_nb.render import words
from dora_nb.render.html import fragment
from dora_nb.render.markup import head, items, table
from dora_nb.units import counted


def condition_text(condition: Condition) -> str:
    """A condition in a line: ``busy Wi-Fi, 30 %: wifi at 0.4 times its rates``."""
    return words.one_line(f"{condition.name}, {_percent(condition)}: {change_words(condition)}")


def condition_html(condition: Condition) -> str:
    """A condition as a fragment of HTML."""
    return fragment([head(f"{condition.name}, {_percent(condition)}"), items(_changes(condition) or ["as it is"])])


def conditions_text(conditions: Conditions) -> str:
    """Conditions, a line each."""
    lines = [_title(conditions), *filter(None, [conditions.description])]
    return "\n".join([*map(words.one_line, lines), "", *map(condition_text, conditions.conditions)])


def conditions_html(conditions: Conditions) -> str:
    """Conditions as a fragment of HTML."""
    rows = [[each.name, _percent(each), change_words(each)] for each in conditions.conditions]
    lasts = f"In training, the condition is drawn anew every {conditions.windows_per_change:.3g} windows on average."
    return fragment(
        [
            head(_title(conditions), conditions.description),
            table(["Condition", "Probability", "What is different"], rows, sentences=(2,)),
            items([lasts]),
        ]
    )


def change_words(condition: Condition) -> str:
    """What is different in a condition."""
    return words.sentence(_changes(condition)) or "as it is"


def _title(conditions: Conditions) -> str:
    return f"{conditions.name}: {counted(len(conditions), 'condition')}, one at a time"


def _percent(condition: Condition) -> str:
    return f"{100 * condition.probability:.3g} %"


def _changes(condition: Condition) -> list[str]:
    changes = [f"{name} at {factor:.3g} times its rates" for name, factor in condition.domain_rate_factors.items()]
    changes += [
        f"{name} reached at {factor:.3g} times its rates" for name, factor in condition.device_rate_factors.items()
    ]
    changes += [f"{name} at {factor:.3g} times its speed" for name, factor in condition.device_speed_factors.items()]
    away = condition.absent_devices
    return changes + ([f"{words.sentence(away)} away"] if away else [])
