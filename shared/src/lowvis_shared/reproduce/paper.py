"""What a paper claims, row by row: the strict reader of ``paper.toml``."""

import tomllib
from collections.abc import Callable, Mapping
from dataclasses import MISSING, dataclass, fields
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import cast

from lowvis_shared.errors import ReproductionError

LEVELS = ("L0", "L1", "L2", "L3", "L4")
STATUSES = ("ran", "needs-data", "needs-weights", "needs-gpu", "needs-training", "paper-ambiguous")


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One figure of one of the paper's tables.

    Attributes:
        id: Name of the row, unique within the paper, such as ``"x4/set5/psnr"``.
        table: Where the paper prints it, such as ``"Table 2"``.
        dataset: The data it was measured on; empty for counts.
        protocol: How it is measured, in words.
        metric: What is measured, such as ``"PSNR"``.
        unit: Unit of `value`, such as ``"dB"``; empty for ratios.
        value: What the paper prints; ``None`` where its cell is not at hand.
        digits: Digits after the point that are shown.
        tolerance: Largest allowed difference to `value`; ``None`` where there is no value.
        because: Why this tolerance.
        weights: Name of the weights; empty where none are needed.
        level: Rung of the evidence ladder, ``"L0"`` (structure) to ``"L4"`` (retrained).
        status: ``"ran"``, or what stands in the way of running it anywhere.
        reason: What is needed, or what is ambiguous; empty only for ``"ran"``.
        measure: What to measure: ``kind`` names the measurer, the rest are its arguments.
    """

    id: str
    table: str
    dataset: str = ""
    protocol: str
    metric: str
    unit: str = ""
    value: float | None = None
    digits: int
    tolerance: float | None = None
    because: str = ""
    weights: str = ""
    level: str
    status: str
    reason: str = ""
    measure: Mapping[str, object]

    @property
    def kind(self) -> str:
        """The name of the measurer."""
        return str(self.measure["kind"])

    def problem(self) -> str | None:
        """What is wrong with the row, or ``None``."""
        if self.level not in LEVELS:
            return f"level '{self.level}' is none of {', '.join(LEVELS)}"
        if self.status not in STATUSES:
            return f"status '{self.status}' is none of {', '.join(STATUSES)}"
        if self.status != "ran" and not self.reason:
            return f"status '{self.status}' needs a reason"
        if not isinstance(self.measure.get("kind"), str):
            return "measure needs a kind"
        if (self.value is None) != (self.tolerance is None):
            return "value and tolerance come together"
        if self.tolerance is not None and (self.tolerance < 0 or not self.because):
            return "a tolerance is not negative and says because of what"
        return None


@dataclass(frozen=True, slots=True)
class Paper:
    """A paper and the figures it prints.

    Attributes:
        word: The paper's word.
        title: Its title.
        url: Where it can be read.
        rows: Its figures, in the order of the file.
    """

    word: str
    title: str
    url: str
    rows: tuple[Row, ...]


def load_paper(path: Traversable | Path) -> Paper:
    """Read a ``paper.toml``.

    The file has a table ``[paper]`` with ``word``, ``title`` and ``url``, and one ``[[row]]`` for
    each figure, with the fields of `Row`.

    Raises:
        ReproductionError: A key is unknown, missing or of the wrong type, an id occurs twice, or a
            row contradicts itself; the message names the row.
    """
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ReproductionError(f"{path}: {error}") from error
    paper, rows = content.pop("paper", None), content.pop("row", [])
    if content or not isinstance(paper, dict) or not isinstance(rows, list):
        raise ReproductionError(f"{path}: it holds one [paper] and any number of [[row]]")
    meta = cast("dict[str, object]", paper)
    if set(meta) != {"word", "title", "url"} or not all(isinstance(v, str) for v in meta.values()):
        raise ReproductionError(f"{path}: [paper] holds the texts word, title and url")
    read: dict[str, Row] = {}
    for number, entry in enumerate(cast("list[dict[str, object]]", rows), start=1):
        name = f"{path}: row {entry.get('id', f'number {number}')}"
        row = _read_row(entry, name)
        if row.id in read:
            raise ReproductionError(f"{name}: the id occurs twice")
        read[row.id] = row
    return Paper(str(meta["word"]), str(meta["title"]), str(meta["url"]), tuple(read.values()))


def _number(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError
    return value


def _exactly(kind: type) -> Callable[[object], object]:
    def check(value: object) -> object:
        if type(value) is not kind:
            raise TypeError
        return value

    return check


_CHECKS: dict[str, Callable[[object], object]] = {
    "value": _number,
    "tolerance": _number,
    "digits": _exactly(int),
    "measure": _exactly(dict),
}


def _read_row(entry: Mapping[str, object], name: str) -> Row:
    known = {field.name: field for field in fields(Row)}
    if unknown := sorted(set(entry) - set(known)):
        raise ReproductionError(f"{name}: unknown key {', '.join(unknown)}")
    required = {key for key, field in known.items() if field.default is MISSING}
    if missing := sorted(required - set(entry)):
        raise ReproductionError(f"{name}: missing key {', '.join(missing)}")
    for key, value in entry.items():
        try:
            _CHECKS.get(key, _exactly(str))(value)
        except TypeError:
            raise ReproductionError(f"{name}: {key} = {value!r} is of the wrong type") from None
    row = Row(**entry)  # pyright: ignore[reportArgumentType] - every type was checked above
    if problem := row.problem():
        raise ReproductionError(f"{name}: {problem}")
    return row
