"""What calibration decides of a bundle: how its views become answers, which exits it can do without, and the frontier.

Everything is judged on images that it was not fitted on; no networks are run here, all comes from the views of the calibration
images.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from anchornet.budget.alternatives import choose_frontier
from anchornet.budget.combination import AUTO, FITTED, RULES, Combine
from anchornet.budget.frontier import Frontier, comparison_noise
from anchornet.bundle import Bundle
from anchornet.cascade.protocol import rule_of
from anchornet.cascade.view_table import Combined, ViewTable, by_fit, by_rule
from anchornet.systems.registry import SystemSettings, system_of

WITHOUT_LABELS = "Without labels weights of views cannot be fitted; the combination is: {name}."
_ALL = "all exits"


@dataclass(frozen=True)
class Calibration:
    """What was decided, and on what grounds."""

    settings: SystemSettings
    """Of the system; exits that were dropped are in ``skip``."""
    combined: Combined
    frontier: Frontier
    said: tuple[str, ...] = ()
    """Sentences for people: what was chosen or dropped, and why."""


def calibrate(bundle: Bundle, table: ViewTable, combine: Combine, *, drop_exits: bool = False) -> Calibration:
    """Combination, exits and frontier of a bundle from the views of calibration images through all its exits.

    combine: a rule, or ``fitted`` weights, or ``auto``: what is most accurate on images that it was not fitted on. Without labels
    nothing can be fitted or chosen: it is the bundle's fitted weights where an earlier calibration left some, else the rule that
    its cascade was made for. drop_exits: leave out exits without which the frontier is better. Raises ValueError for too few
    images, or logits that are not finite.
    """
    ways = _ways(bundle, table, combine)
    choice = choose_frontier({name: way.held for name, way in ways.items()})
    found = Calibration(bundle.system, ways[choice.name], choice.frontier)
    if table.label is None:
        return replace(found, said=(WITHOUT_LABELS.format(name=choice.name),)) if combine in (FITTED, AUTO) else found
    if report := choice.report():
        found = replace(found, said=(report,))
    return _without_needless(bundle, table, found) if drop_exits else found


def _ways(bundle: Bundle, table: ViewTable, combine: Combine) -> Mapping[str, Combined]:
    """The combinations to choose from, by name."""
    cascade = bundle.as_built()
    if combine != FITTED and combine != AUTO:
        return {combine: by_rule(table, rule_of(cascade, combine))}
    if table.label is None:
        earlier = bundle.combination
        kept = earlier if earlier is not None and earlier.fitted else cascade.combination
        return {kept.name: by_rule(table, kept)}
    fitted = {FITTED: by_fit(table, cascade.combination)}
    return (
        fitted if combine == FITTED else {**fitted, **{rule: by_rule(table, rule_of(cascade, rule)) for rule in RULES}}
    )


def _without_needless(bundle: Bundle, table: ViewTable, found: Calibration) -> Calibration:
    """``found`` without the exits that cost more than they bring, dropped one by one, the most needless first."""
    margin = comparison_noise(len(table.image_id)) / 4
    while True:
        tried = {_ALL: found}
        for name, settings in system_of(found.settings).fewer_exits(found.settings).items():
            tried[name] = _through(bundle, table, found, settings)
        choice = choose_frontier({name: each.combined.held for name, each in tried.items()}, margin)
        if choice.name == _ALL:
            return found
        gain = 100 * ((choice.accuracies[choice.name] or 0) - (choice.accuracies[_ALL] or 0))
        said = (
            f"Dropped: exit {choice.name}. Without it the cross-fitted accuracy, averaged over the budgets, is {gain:.2f} points "
            f"higher."
        )
        found = replace(tried[choice.name], frontier=choice.frontier, said=(*found.said, said))


def _through(bundle: Bundle, table: ViewTable, found: Calibration, settings: SystemSettings) -> Calibration:
    """``found`` through a cascade with other settings, weights learned anew."""
    cascade = replace(bundle, system=settings).as_built()
    exits, macs = zip(*((exit.name, exit.macs) for exit in cascade.exits), strict=True)
    fewer, way = table.through(exits, cascade.combination.views, macs), found.combined.combination
    combined = by_fit(fewer, cascade.combination) if way.fitted else by_rule(fewer, rule_of(cascade, way.rule))
    return replace(found, settings=settings, combined=combined)
