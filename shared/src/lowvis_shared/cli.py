"""The command line that all packages share: one flag vocabulary, folder loops, errors, exit codes.

A package's command is a typer application made by `make_app` and started by `run`::

    app = make_app("pan", "Efficient super-resolution with pixel attention.")

    @app.command()
    def upscale(photos: InputsArgument, output: OutputOption, overwrite: OverwriteOption = False,
                json: JsonOption = False) -> None:
        process_files(plan_jobs(photos, output), work, overwrite=overwrite, json=json)

    def main() -> None:
        run(app)

Results go to standard output; notes, warnings, errors and progress go to standard error.

Exit codes: 0 done, 1 some inputs failed, 2 usage, 65 bad input, 66 weights, 69 device or missing
extra, 70 a defect of lowvis, 73 cannot write, 130 interrupted, 143 terminated.
"""

import errno
import glob
import importlib.metadata
import io
import json as json_format
import logging
import os
import signal
import sys
import time
import traceback
import unicodedata
from collections.abc import Callable, Collection, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, BinaryIO, ClassVar, NoReturn, TypeVar

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from lowvis_shared.assets import Asset
from lowvis_shared.errors import (
    InputError,
    LowvisError,
    MissingExtraError,
    OutputError,
    PartialFailure,
    UsageError,
)
from lowvis_shared.files import atomic_write, check_output, sha256_file
from lowvis_shared.images import IMAGE_SUFFIXES, OUTPUT_SUFFIXES

logger = logging.getLogger("lowvis")

_Result = TypeVar("_Result")

# --- The flag vocabulary -------------------------------------------------------------------------


def _enable_debug(enabled: bool) -> None:
    if enabled:
        logger.setLevel(logging.DEBUG)


InputsArgument = Annotated[
    list[str], typer.Argument(help="Files, folders (with their sub-folders) and globs.")
]
OutputOption = Annotated[
    Path,
    typer.Option("--output", "-o", help="A file for one picture, otherwise a folder."),
]
WeightsOption = Annotated[
    str, typer.Option(help="'own' (shipped with the package), 'official', or the path of a file.")
]
TileOption = Annotated[
    str, typer.Option(help="'auto', or the side of a tile in input pixels; 0 for no tiles.")
]
DeviceOption = Annotated[str, typer.Option(help="'auto', 'cpu', 'cuda', 'cuda:1', 'mps'.")]
PrecisionOption = Annotated[str, typer.Option(help="'auto', 'fp32', 'bf16' or 'fp16'.")]
OverwriteOption = Annotated[bool, typer.Option("--overwrite", help="Replace outputs that exist.")]
JsonOption = Annotated[
    bool, typer.Option("--json", help="Print exactly one JSON object on standard output.")
]
DataDirOption = Annotated[
    Path | None,
    typer.Option(
        exists=True, file_okay=False, help="Folder that holds the data sets, one sub-folder each."
    ),
]
SeedOption = Annotated[int, typer.Option(min=0, max=2**32 - 1, help="Seed of every random choice.")]
QualityOption = Annotated[int, typer.Option(min=1, max=100, help="Quality of JPEG and WebP files.")]
MaxPixelsOption = Annotated[
    int, typer.Option(min=1, help="Refuse pictures with more pixels than this.")
]
AllowTruncatedOption = Annotated[
    bool, typer.Option("--allow-truncated", help="Read what is there of a truncated picture.")
]
AcceptLicenceOption = Annotated[
    bool,
    typer.Option("--accept-licence", help="Fetch files whose authors state no licence."),
]
OfflineOption = Annotated[bool, typer.Option("--offline", help="Use no network.")]
DebugOption = Annotated[
    bool,
    typer.Option(
        "--debug",
        callback=_enable_debug,
        is_eager=True,
        help="Show the traceback of an error. May stand anywhere on the line.",
    ),
]


def parse_tile(text: str) -> int | None:
    """The side of a tile from the value of `TileOption`; ``None`` for ``auto``, 0 for no tiles."""
    if text == "auto":
        return None
    if not text.isdecimal():
        raise UsageError(
            f"--tile {text!r} is neither 'auto' nor a number of pixels",
            hint="--tile auto, --tile 256, or --tile 0 for the whole picture at once",
        )
    return int(text)


# --- The application -----------------------------------------------------------------------------


def make_app(word: str, summary: str) -> typer.Typer:
    """An empty application ``lowvis-<word>`` with ``--version`` and ``--debug``.

    Args:
        word: The paper's word; the version is that of the distribution ``lowvis-<word>``.
        summary: One line for ``--help``.
    """
    command = f"lowvis-{word}"
    app = typer.Typer(
        name=command,
        help=summary,
        no_args_is_help=True,
        add_completion=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )

    def show_version(asked: bool) -> None:
        if asked:
            typer.echo(f"{command} {importlib.metadata.version(command)}")
            raise typer.Exit

    @app.callback()
    def options(  # pyright: ignore[reportUnusedFunction] - typer calls it
        version: Annotated[
            bool,
            typer.Option(
                "--version", callback=show_version, is_eager=True, help="Show the version."
            ),
        ] = False,
        debug: DebugOption = False,
    ) -> None: ...

    return app


class _MessageHandler(logging.Handler):
    """Write records to whatever standard error is now, as ``note: …`` or ``warning: …``."""

    prefixes: ClassVar = {
        logging.DEBUG: "debug",
        logging.INFO: "note",
        logging.WARNING: "warning",
        logging.ERROR: "error",
        logging.CRITICAL: "error",
    }

    def emit(self, record: logging.LogRecord) -> None:
        # sys.stderr is looked up each time: a live progress bar replaces it, to stay below.
        try:
            message = self.format(record)
            sys.stderr.write(f"{self.prefixes.get(record.levelno, 'note')}: {message}\n")
            sys.stderr.flush()
        except (OSError, ValueError):
            self.handleError(record)


@contextmanager
def _logging_to_stderr() -> Generator[None]:
    handler = _MessageHandler()
    level, propagate = logger.level, logger.propagate
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    logger.propagate = False
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)
        logger.propagate = propagate


def report_error(error: LowvisError) -> None:
    """Say an error on standard error: one line and its hint; with ``--debug`` its traceback."""
    lines = [f"error: {error}"]
    if error.hint:
        lines.append(f"  hint: {error.hint}")
    if logger.isEnabledFor(logging.DEBUG):
        lines.append("".join(traceback.format_exception(error)).rstrip())
    sys.stderr.write("\n".join(lines) + "\n")
    sys.stderr.flush()


class _UnexpectedError(LowvisError):
    """An exception that nobody expected, with what is needed to report it."""

    exit_code = 70

    def __init__(self, error: Exception) -> None:
        super().__init__(
            f"unexpected {type(error).__name__}: {error}",
            hint="this is a defect of lowvis; --debug shows where",
        )
        self.__cause__ = error


def _explain(error: Exception) -> LowvisError:
    """What to tell the user about an exception that is no `LowvisError`."""
    if isinstance(error, MemoryError):
        explained = InputError(
            "the memory of this machine does not suffice",
            hint="take a smaller --tile or a smaller picture",
        )
    elif isinstance(error, OSError) and error.errno == errno.ENAMETOOLONG:
        explained = InputError(f"{error.filename}: the name is too long")
    else:
        return _UnexpectedError(error)
    explained.__cause__ = error
    return explained


@contextmanager
def _termination_as_exit() -> Generator[None]:
    def leave(number: int, _frame: object) -> NoReturn:
        # SystemExit unwinds like Ctrl-C, so that temporary files are removed on the way out.
        raise SystemExit(128 + number)

    previous = signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)


def run(app: typer.Typer, arguments: Sequence[str] | None = None) -> NoReturn:
    """Run an application and exit: errors become one line on standard error and an exit code.

    Args:
        app: What `make_app` returned.
        arguments: The command line after the name of the command; that of the process by default.
    """
    line = list(sys.argv[1:] if arguments is None else arguments)
    # --debug may stand anywhere: it moves to the front, where the application's own option is.
    options_end = line.index("--") if "--" in line else len(line)
    if "--debug" in line[:options_end]:
        rest = [part for part in line[:options_end] if part != "--debug"]
        line = ["--debug", *rest, *line[options_end:]]
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a mark that a terminal lacks is no reason to die
            stream.reconfigure(errors="replace")
    with _logging_to_stderr(), _termination_as_exit():
        try:
            app(args=line, prog_name=app.info.name)
        except LowvisError as error:
            report_error(error)
            sys.exit(error.exit_code)
        except KeyboardInterrupt:
            sys.exit(128 + signal.SIGINT)
        except Exception as error:  # noqa: BLE001 - said in one line, in full with --debug
            explained = _explain(error)
            report_error(explained)
            sys.exit(explained.exit_code)
    sys.exit(0)


def own_weights_row(file: Path) -> dict[str, object]:
    """What a ``weights list`` says of a file of our own, which lies in a package."""
    return {
        "weights": "own",
        "source": file,
        "licence": "Apache-2.0",
        "bytes": file.stat().st_size,
        "sha256": sha256_file(file),
    }


def official_weights_row(asset: Asset) -> dict[str, object]:
    """What a ``weights list`` says of the authors' file."""
    return {
        "weights": "official",
        "source": asset.url,
        "licence": asset.licence,
        "bytes": asset.size,
        "sha256": asset.sha256,
    }


def show_weights(rows: Mapping[str, Sequence[Mapping[str, object]]], *, json: bool) -> None:
    """Print which weights there are, by the label of their network."""
    if json:
        print_json({"weights": [row for each in rows.values() for row in each]})
        return
    width = max(map(len, rows), default=0)
    for label, each in rows.items():
        for row in each:
            typer.echo(
                f"{label:<{width}}  {row['weights']:<8}  {row['bytes']:>9,} bytes  "
                f"licence {row['licence']}\n    {row['source']}"
            )


def add_train(app: typer.Typer, word: str) -> None:
    """Give an application the command ``train``, whose settings are Hydra's.

    It runs ``main`` of the package's module ``train``, which is imported only then: its libraries
    are the extra ``train``, and that they are missing is said.
    """

    @app.command(
        # Everything behind it is left to Hydra, --help too.
        context_settings={
            "ignore_unknown_options": True,
            "allow_extra_args": True,
            "help_option_names": [],
        }
    )
    def train(  # pyright: ignore[reportUnusedFunction] - typer calls it
        context: typer.Context,
    ) -> None:
        """Train on your photographs: ``photos=FOLDER``; ``--help`` lists every setting."""
        try:
            module = import_module(f"lowvis_{word}.train")
        except ModuleNotFoundError as error:
            if (error.name or "").partition(".")[0] in {"hydra", "lightning_fabric", "omegaconf"}:
                raise MissingExtraError(f"lowvis-{word}", "train") from error
            raise
        module.main(list(context.args))


@contextmanager
def named(path: Path) -> Generator[None]:
    """Put the name of a file before an `InputError` that does not know it."""
    try:
        yield
    except InputError as error:
        if str(path) in str(error):
            raise
        raise InputError(f"{path}: {error}", hint=error.hint) from error


def print_json(value: object) -> None:
    """Print one JSON object on standard output, as `json_text` writes it."""
    sys.stdout.write(json_text(value))
    sys.stdout.flush()


def json_text(value: object) -> str:
    """Write anything as JSON: paths as text; infinities and NaN become ``null``."""
    text = json_format.dumps(_plain(value), indent=2, allow_nan=False)
    return text + "\n"


def _plain(value: object) -> object:
    """What JSON can hold: tuples as lists, paths as text, floats that are not finite as null."""
    match value:
        case Mapping():
            return {str(key): _plain(item) for key, item in value.items()}
        case str() | bool() | int() | None:
            return value
        case float():
            return value if abs(value) < float("inf") else None
        case Sequence():
            return [_plain(item) for item in value]
        case _:
            return str(value)


def check_reports(paths: Collection[Path], suffixes: Collection[str], *, overwrite: bool) -> None:
    """Refuse reports that could not be written, before the work that they are of.

    Args:
        paths: What the user asked for.
        suffixes: The kinds there are, such as ``.html``.
        overwrite: Replace files that exist.

    Raises:
        UsageError: A report is of another kind, or two would be one file.
        OutputError: A file exists or cannot be written.
    """
    for path in paths:
        if path.suffix.lower() not in suffixes:
            raise UsageError(f"{path}: a report is one of {', '.join(suffixes)}")
    if len({check_output(path, overwrite=overwrite) for path in paths}) < len(paths):
        raise UsageError("two reports would be written to one file")


def write_reports(
    paths: Collection[Path],
    writers: Mapping[str, Callable[[_Result], str]],
    result: _Result,
    *,
    overwrite: bool,
) -> None:
    """Write a result in each of the kinds that the suffixes of the paths name.

    Args:
        paths: As for `check_reports`.
        writers: What makes the text of each kind.
        result: What is written.
        overwrite: Replace files that exist.

    Raises:
        OutputError: A file exists or cannot be written.
    """
    for path in paths:
        content = writers[path.suffix.lower()](result).encode()
        atomic_write(path, partial(_write_content, content), overwrite=overwrite)


def refuse_failures(problems: Mapping[str, str], total: int) -> None:
    """End a run in which some of many failed, after all results were shown.

    Args:
        problems: What went wrong, by the name of what failed.
        total: How many there were.

    Raises:
        PartialFailure: There are problems; the message lists them.
    """
    if problems:
        names = "".join(f"\n  {name}: {problem}" for name, problem in problems.items())
        raise PartialFailure(f"{len(problems)} of {total} failed:{names}")


def _write_content(content: bytes, file: BinaryIO) -> None:
    file.write(content)


# --- Inputs and outputs --------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Job:
    """One picture to read and where its result goes."""

    source: Path
    target: Path


@dataclass(frozen=True, slots=True)
class _Found:
    path: Path
    relative: Path  # where it lies within the folder that was given; its name otherwise


def expand_inputs(
    inputs: Sequence[str], *, suffixes: Collection[str] = IMAGE_SUFFIXES
) -> list[Path]:
    """The files that the arguments name: files as they are, folders walked, globs expanded.

    A folder gives every file below it whose suffix is among `suffixes`, sorted, without hidden
    ones; what it skips is counted in a note. Symbolic links to folders are not followed, so a
    loop of links ends. A name that exists is never taken for a glob.

    Raises:
        InputError: A path does not exist, a glob matches nothing, or nothing is left to do.
    """
    return [found.path for found in _expand(inputs, suffixes)]


def _expand(
    inputs: Sequence[str], suffixes: Collection[str], output: Path | None = None
) -> list[_Found]:
    found: dict[str, _Found] = {}
    for text in inputs:
        for item in _expand_one(text, suffixes, output):
            found.setdefault(os.path.abspath(item.path), item)  # noqa: PTH100 - keeps links
    if not found:
        raise InputError(f"no pictures in {', '.join(inputs)}", hint=_suffix_hint(suffixes))
    return list(found.values())


def _suffix_hint(suffixes: Collection[str]) -> str:
    return f"looked for files that end in {' '.join(sorted(suffixes))}"


def _expand_one(text: str, suffixes: Collection[str], output: Path | None) -> Iterator[_Found]:
    path = Path(text)
    try:
        folder = path.is_dir()
    except OSError as error:
        raise InputError(f"{text}: {error.strerror}") from error
    if folder:
        yield from _walk(path, suffixes, output)
    elif os.path.lexists(path):
        if not path.exists():
            raise InputError(f"{text}: a symbolic link that leads nowhere")
        yield _Found(path, Path(path.name))
    elif glob.has_magic(text):
        matches = sorted(glob.glob(text, recursive=True))  # noqa: PTH207 - takes absolute globs
        if not matches:
            raise InputError(f"{text}: nothing matches")
        for match in matches:
            yield from _expand_one(match, suffixes, output)
    else:
        raise InputError(f"{text}: no such file or folder")


def _walk(folder: Path, suffixes: Collection[str], output: Path | None) -> Iterator[_Found]:
    def refuse(error: OSError) -> NoReturn:
        raise InputError(f"{error.filename}: {error.strerror}") from error

    skipped = 0
    results = None if output is None else os.path.realpath(output)
    for root, folders, names in os.walk(folder, onerror=refuse):
        folders[:] = sorted(
            name
            for name in folders
            # results of an earlier run, in a folder within the inputs, are no inputs of this one
            if not name.startswith(".") and os.path.realpath(Path(root, name)) != results
        )
        for name in sorted(names):
            path = Path(root, name)
            if path.suffix.lower() in suffixes and not name.startswith("."):
                yield _Found(path, path.relative_to(folder))
            else:
                skipped += 1
    if skipped:
        logger.info(
            "%s: skipped %d %s",
            folder,
            skipped,
            "file that is no picture" if skipped == 1 else "files that are no pictures",
        )


_NO_OTHERS: Mapping[str, str] = MappingProxyType({})


def plan_jobs(
    inputs: Sequence[str],
    output: Path,
    *,
    suffix: str | None = None,
    suffixes: Collection[str] = IMAGE_SUFFIXES,
    written: Collection[str] = OUTPUT_SUFFIXES,
    others: Mapping[str, str] = _NO_OTHERS,
) -> list[Job]:
    """Decide where the result of each input goes, before any work is done.

    A single file goes to `output` itself when that has a picture's suffix and is no folder;
    everything else goes below `output`, under its own name, in the sub-folders it came from. What
    lies below an `output` within a folder of inputs is left alone: an earlier run wrote it.

    Args:
        inputs: Files, folders and globs, as in `expand_inputs`.
        output: A file or a folder; it need not exist.
        suffix: The suffix of the results, such as ``".png"``. By default each keeps its own, or
            gets ``.png`` where nothing is written under that suffix, as with a GIF.
        suffixes: What counts as an input.
        written: Suffixes that results may keep.
        others: What a suffix that is not written becomes; ``.png`` where it is not named.

    Raises:
        InputError: As in `expand_inputs`.
        OutputError: The system takes no such name as `output`.
        UsageError: Two inputs would be written to one file (also where a file system ignores
            case), a result would replace an input, or many inputs are to go into one file.
    """
    try:
        names_file = output.suffix.lower() in suffixes and not output.is_dir()
    except OSError as error:
        raise OutputError(f"{output}: {error.strerror}") from error
    found = _expand(inputs, suffixes, output)
    if names_file and (len(inputs) > 1 or Path(inputs[0]).is_dir() or len(found) > 1):
        raise UsageError(
            f"{output} is one file, but the inputs are several", hint="name a folder with -o"
        )
    if names_file:
        jobs = [Job(found[0].path, output)]
    else:
        jobs = [
            Job(item.path, output / _output_name(item.relative, suffix, written, others))
            for item in found
        ]
    _refuse_collisions(jobs)
    _refuse_own_inputs(jobs)
    return jobs


def _output_name(
    name: Path, suffix: str | None, written: Collection[str], others: Mapping[str, str]
) -> Path:
    if suffix is None:
        own = name.suffix.lower()
        suffix = name.suffix if own in written else others.get(own, ".png")
    return name.with_suffix(suffix)


def _refuse_collisions(jobs: Sequence[Job]) -> None:
    taken: dict[str, Job] = {}
    for job in jobs:
        other = taken.setdefault(_file_key(job.target), job)
        if other is not job:
            raise UsageError(
                f"{other.source} and {job.source} would both be written to {job.target}",
                hint="rename one of them, or run them one after the other into two folders",
            )


def _file_key(path: Path) -> str:
    """What two names of one file share on file systems that ignore case and accents."""
    return unicodedata.normalize("NFC", str(path)).casefold()


def comparison_path(job: Job) -> Path:
    """Where the picture of before and after goes: ``NAME_compare.png`` beside the result."""
    return job.target.with_name(f"{job.target.stem}_compare.png")


def refuse_comparison_collisions(
    jobs: Sequence[Job], compared: Sequence[Job] | None = None
) -> None:
    """Refuse jobs whose comparison would be written over another result; raises `UsageError`.

    Args:
        jobs: Whatever is written.
        compared: Those that get a comparison; all when left out.
    """
    taken = {_file_key(job.target) for job in jobs}
    for job in jobs if compared is None else compared:
        path = comparison_path(job)
        if _file_key(path) in taken:
            raise UsageError(
                f"two pictures would be written to {path}",
                hint="leave out --compare, or run these inputs one after the other",
            )
        taken.add(_file_key(path))


def _refuse_own_inputs(jobs: Sequence[Job]) -> None:
    def identity(path: Path) -> tuple[int, int] | None:
        try:
            status = path.stat()
        except OSError:
            return None
        return status.st_dev, status.st_ino

    sources = {identity(job.source) for job in jobs} - {None}
    for job in jobs:
        if identity(job.target) in sources:
            raise UsageError(
                f"{job.target} is an input: a result never replaces the picture it came from",
                hint="name another file or folder with -o",
            )


# --- The folder loop -----------------------------------------------------------------------------

PartProgress = Callable[[int, int], None]
"""Called with the number of parts done and the number of parts of the current picture."""


def _progress() -> Progress:
    """Progress on standard error, drawn only where that is a terminal."""
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        disable=not sys.stderr.isatty(),
        transient=True,
    )


@contextmanager
def progress_bar(description: str, total: int | None = None) -> Generator[PartProgress]:
    """A progress bar on standard error, drawn only where that is a terminal.

    Yields:
        A function that takes how many parts are done and how many there are.
    """
    with _progress() as progress:
        task = progress.add_task(description, total=total)
        yield lambda done, of: progress.update(task, completed=done, total=of)


def process_files(
    jobs: Sequence[Job],
    work: Callable[[Job, PartProgress], Mapping[str, object]],
    *,
    overwrite: bool = False,
    json: bool = False,
) -> None:
    """Do every job; one that fails never stops the others.

    An output that exists is refused before its work, unless `overwrite`. With `json`, the JSON
    object ``{"done", "failed", "files": [{"input", "output", "seconds", …}]}`` is printed at the
    end; a file that failed has ``"error"`` and ``"exit_code"`` instead of figures.

    Args:
        jobs: What `plan_jobs` returned.
        work: Reads ``job.source``, writes ``job.target`` and returns figures for the JSON; it may
            report the parts (tiles) it has done.
        overwrite: Replace outputs that exist.
        json: Print the JSON object.

    Raises:
        LowvisError: The error itself when the only job failed.
        PartialFailure: Some of several jobs failed; each was reported as it happened, and the
            message lists them.
    """
    files: list[dict[str, object]] = []
    failures: dict[Path, LowvisError] = {}
    try:
        with _progress() as progress:
            everything = progress.add_task("", total=len(jobs), visible=len(jobs) > 1)
            for job in jobs:
                start = time.perf_counter()
                entry: dict[str, object] = {"input": job.source, "output": job.target}
                task = progress.add_task(escape(job.source.name), total=None)
                try:
                    figures = _do(
                        job,
                        work,
                        # bound here: `task` is another one when the next job runs
                        lambda done, of, task=task: progress.update(task, completed=done, total=of),
                        overwrite=overwrite,
                    )
                except LowvisError as error:
                    failures[job.source] = error
                    entry |= {"error": str(error), "exit_code": error.exit_code}
                    if len(jobs) > 1:
                        report_error(error)
                else:
                    entry |= {"seconds": round(time.perf_counter() - start, 3), **figures}
                    logger.info("wrote %s", job.target)
                finally:
                    progress.remove_task(task)
                progress.advance(everything)
                files.append(entry)
    except (KeyboardInterrupt, SystemExit):
        logger.warning("interrupted: %d of %d done", len(files) - len(failures), len(jobs))
        raise
    if json:
        print_json({"done": len(files) - len(failures), "failed": len(failures), "files": files})
    if failures and len(jobs) == 1:
        raise next(iter(failures.values()))
    if failures:
        names = "".join(f"\n  {source}" for source in failures)
        raise PartialFailure(f"{len(failures)} of {len(jobs)} failed:{names}")


def _do(
    job: Job,
    work: Callable[[Job, PartProgress], Mapping[str, object]],
    progress: PartProgress,
    *,
    overwrite: bool,
) -> Mapping[str, object]:
    check_output(job.target, overwrite=overwrite)
    try:
        return work(job, progress)
    except LowvisError:
        raise
    except Exception as error:
        raise _explain(error) from error
