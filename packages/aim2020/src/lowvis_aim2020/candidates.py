"""What can be ranked: networks of this package, of other lowvis packages, and the user's own."""

from dataclasses import replace

from lowvis_shared import candidates
from lowvis_shared.candidates import Candidate

from lowvis_aim2020.model import BASELINE, NETWORKS

_WORD = "aim2020"


def find_candidate(
    text: str,
    *,
    scale: int = 4,
    white: float = 1.0,
    weights: bool = True,
    accept_licence: bool = False,
    offline: bool = False,
) -> Candidate:
    """Find what a word such as ``rfdn-x4``, ``pan-x4@official`` or ``mine.py:Net@best.pth`` names.

    Networks of this package win over others of the same name, and have the report's titles.
    Arguments and errors are those of `lowvis_shared.candidates.find_candidate`.
    """
    candidate = candidates.find_candidate(
        text,
        scale=scale,
        white=white,
        weights=weights,
        accept_licence=accept_licence,
        offline=offline,
        first=_WORD,
    )
    name = text.partition("@")[0]
    if name not in NETWORKS:
        return candidate
    return replace(candidate, title=NETWORKS[name].title + candidate.title.removeprefix(name))


def all_names(scale: int = 4) -> list[str]:
    """Return the names of all networks of one scale in the installed packages, baseline first."""
    names = candidates.all_names(scale, first=_WORD)
    return sorted(names, key=lambda name: name != BASELINE)
