"""What a user of any lowvis command relies on: where files go, what is said, how it ends."""

import json
import logging
import os
import pty
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import pytest
import typer
from lowvis_shared.cli import (
    InputsArgument,
    Job,
    JsonOption,
    OutputOption,
    OverwriteOption,
    PartProgress,
    check_reports,
    comparison_path,
    expand_inputs,
    json_text,
    make_app,
    parse_tile,
    plan_jobs,
    print_json,
    process_files,
    refuse_comparison_collisions,
    run,
    write_reports,
)
from lowvis_shared.errors import InputError, OutputError, PartialFailure, UsageError
from lowvis_shared.files import atomic_write
from lowvis_shared.testing import heed_interrupts


def touch(*paths: Path, content: bytes = b"picture") -> None:
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)


def copy_work(job: Job, progress: PartProgress) -> dict[str, object]:
    """Copies a file; refuses one that holds `bad`, fails on one that holds `defect`."""
    content = job.source.read_bytes()
    if content == b"bad":
        raise InputError(f"{job.source}: not a picture")
    if content == b"defect":
        raise ZeroDivisionError("nobody expected this")
    progress(1, 2)
    atomic_write(job.target, lambda file: void(file.write(content)), overwrite=True)
    return {"bytes": len(content)}


def void(_: object) -> None: ...


def make_copy_app() -> typer.Typer:
    app = make_app("shared", "Copies pictures.")

    @app.command()
    def copy(
        photos: InputsArgument,
        output: OutputOption,
        overwrite: OverwriteOption = False,
        as_json: JsonOption = False,
        wait: Annotated[float, typer.Option()] = 0,
    ) -> None:
        """Copy pictures."""

        def work(job: Job, progress: PartProgress) -> dict[str, object]:
            if wait:
                (job.target.parent / "started").touch()
                time.sleep(wait)
            return copy_work(job, progress)

        process_files(plan_jobs(photos, output), work, overwrite=overwrite, json=as_json)

    @app.command()
    def many() -> None:
        """Print more than a pipe holds."""
        print_json({"numbers": list(range(100_000))})

    return app


def ends(arguments: Sequence[str | Path]) -> int:
    with pytest.raises(SystemExit) as caught:
        run(make_copy_app(), [str(argument) for argument in arguments])
    assert isinstance(caught.value.code, int)
    return caught.value.code


@pytest.fixture
def command(tmp_path: Path) -> list[str]:
    """The same application as a process of its own."""
    module = tmp_path / "copy_command.py"
    module.write_text(
        textwrap.dedent(f"""
        import importlib.util, sys
        spec = importlib.util.spec_from_file_location("helper", {__file__!r})
        helper = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(helper)
        helper.run(helper.make_copy_app())
        """)
    )
    return [sys.executable, str(module)]


# --- Inputs --------------------------------------------------------------------------------------


def test_a_folder_gives_its_pictures_sorted_and_counts_what_it_skips(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    wanted = [tmp_path / "a.png", tmp_path / "b c'd\".JPG", tmp_path / "sub" / "-e.webp"]
    touch(*wanted, tmp_path / "notes.txt", tmp_path / "._a.png", tmp_path / ".git" / "x.png")
    (tmp_path / "sub" / "loop").symlink_to(tmp_path)
    with caplog.at_level(logging.INFO, logger="lowvis"):
        assert expand_inputs([str(tmp_path)]) == wanted
    assert "skipped 2 files" in caplog.text


def test_globs_are_expanded_unless_a_file_has_that_very_name(tmp_path: Path):
    touch(tmp_path / "a1.png", tmp_path / "a2.png", tmp_path / "a[1].png")
    assert expand_inputs([str(tmp_path / "a?.png")]) == [tmp_path / "a1.png", tmp_path / "a2.png"]
    assert expand_inputs([str(tmp_path / "a[1].png")]) == [tmp_path / "a[1].png"]


def test_a_picture_named_twice_is_done_once(tmp_path: Path):
    touch(tmp_path / "a.png")
    named = [str(tmp_path), str(tmp_path / "a.png"), str(tmp_path / "*.png")]
    assert expand_inputs(named) == [tmp_path / "a.png"]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("absent.png", "no such file"),
        ("*.gif", "nothing matches"),
        ("empty", "no pictures in"),
        ("ring.png", "leads nowhere"),
    ],
)
def test_inputs_that_name_nothing_are_refused_by_name(tmp_path: Path, name: str, message: str):
    (tmp_path / "empty").mkdir()
    (tmp_path / "ring.png").symlink_to(tmp_path / "ring.png")
    with pytest.raises(InputError, match=message) as caught:
        expand_inputs([str(tmp_path / name)])
    assert name in str(caught.value)


# --- Outputs -------------------------------------------------------------------------------------


def test_one_file_goes_to_the_file_named_or_into_the_folder_named(tmp_path: Path):
    touch(tmp_path / "a.png")
    source = [str(tmp_path / "a.png")]
    assert plan_jobs(source, tmp_path / "big.jpg")[0].target == tmp_path / "big.jpg"
    assert plan_jobs(source, tmp_path / "out")[0].target == tmp_path / "out" / "a.png"
    (tmp_path / "album.png").mkdir()
    inside = tmp_path / "album.png" / "a.png"
    assert plan_jobs(source, tmp_path / "album.png")[0].target == inside


def test_a_folder_keeps_its_sub_folders_in_the_output(tmp_path: Path):
    touch(tmp_path / "in" / "a.png", tmp_path / "in" / "sub" / "a.png")
    jobs = plan_jobs([str(tmp_path / "in")], tmp_path / "out", suffix=".webp")
    targets = [job.target.relative_to(tmp_path / "out") for job in jobs]
    assert targets == [Path("a.webp"), Path("sub/a.webp")]


@pytest.mark.parametrize("output", ["in/out", "in/sub/out"])
def test_a_folder_of_results_within_the_inputs_is_no_input(tmp_path: Path, output: str):
    touch(tmp_path / "in" / "a.png", tmp_path / "in" / "sub" / "b.png")
    line = ["copy", tmp_path / "in", "-o", tmp_path / output, "--overwrite"]
    assert [ends(line), ends(line)] == [0, 0]
    written = {path.relative_to(tmp_path / output) for path in (tmp_path / output).rglob("*.png")}
    assert written == {Path("a.png"), Path("sub/b.png")}


def test_the_folder_of_results_itself_can_be_an_input(tmp_path: Path):
    touch(tmp_path / "a.png")
    (job,) = plan_jobs([str(tmp_path)], tmp_path, suffix=".jpg")
    assert job == Job(tmp_path / "a.png", tmp_path / "a.jpg")


@pytest.mark.parametrize("name", ["a" * 300 + ".png", "a" * 300 + "*"])
def test_names_that_are_too_long_are_errors_of_the_user(
    tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]
):
    touch(tmp_path / "a.png")
    assert ends(["copy", tmp_path / name, "-o", tmp_path / "out"]) == 65
    assert ends(["copy", tmp_path / "a.png", "-o", tmp_path / name]) == 73
    assert capsys.readouterr().err.count("too long") == 2


def test_want_of_memory_is_no_defect(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    touch(tmp_path / "a.png", content=b"huge")
    app = make_app("shared", "Needs memory.")

    @app.command()
    def whole() -> None:  # pyright: ignore[reportUnusedFunction] - typer calls it
        raise MemoryError

    @app.command()
    def files() -> None:  # pyright: ignore[reportUnusedFunction] - typer calls it
        def work(job: Job, progress: PartProgress) -> dict[str, object]:
            raise MemoryError

        process_files(plan_jobs([str(tmp_path / "a.png")], tmp_path / "out"), work)

    for name in ("whole", "files"):
        with pytest.raises(SystemExit) as caught:
            run(app, [name])
        assert caught.value.code == 65
        said = capsys.readouterr().err
        assert "--tile" in said
        assert "defect" not in said


def test_a_result_keeps_its_suffix_unless_nothing_is_written_under_it(tmp_path: Path):
    touch(tmp_path / "a.JPG", tmp_path / "b.gif", tmp_path / "c.1")
    jobs = plan_jobs([str(tmp_path / name) for name in ("a.JPG", "b.gif", "c.1")], Path("out"))
    assert [job.target.name for job in jobs] == ["a.JPG", "b.png", "c.png"]


def test_a_command_says_what_it_takes_and_what_it_writes(tmp_path: Path):
    touch(tmp_path / "a.mp4", tmp_path / "b.MOV", tmp_path / "c.png", tmp_path / "d.gif")
    kinds = {".mp4", ".mov", ".png", ".gif"}
    jobs = plan_jobs(
        [str(tmp_path)], tmp_path / "out", suffixes=kinds, written={".mp4", ".mov", ".png"}
    )
    assert [job.target.name for job in jobs] == ["a.mp4", "b.MOV", "c.png", "d.png"]
    (job,) = plan_jobs([str(tmp_path)], tmp_path / "out", suffixes={".mp4"}, written={".mp4"})
    assert job == Job(tmp_path / "a.mp4", tmp_path / "out" / "a.mp4")
    (job,) = plan_jobs([str(tmp_path / "a.mp4")], tmp_path / "b.mp4", suffixes=kinds)
    assert job.target == tmp_path / "b.mp4"


@pytest.mark.parametrize(
    ("names", "suffix"),
    [
        (["a.jpg", "a.png"], ".png"),
        (["a.png", "A.PNG"], None),
        (["\u00e9.png", "e\u0301.png"], None),
        (["x/a.png", "y/a.png"], None),
    ],
)
def test_two_inputs_never_share_an_output(tmp_path: Path, names: list[str], suffix: str | None):
    touch(*(tmp_path / name for name in names))
    if len(list(tmp_path.rglob("*.*"))) < 2:
        pytest.skip("this file system takes the two names for one")
    with pytest.raises(UsageError, match="would both be written to"):
        plan_jobs([str(tmp_path / name) for name in names], tmp_path / "out", suffix=suffix)


def test_several_inputs_do_not_go_into_one_file(tmp_path: Path):
    touch(tmp_path / "in" / "a.png", tmp_path / "in" / "b.png")
    with pytest.raises(UsageError, match="is one file"):
        plan_jobs([str(tmp_path / "in")], tmp_path / "out.png")


def test_no_result_replaces_an_input_even_through_a_link(tmp_path: Path):
    touch(tmp_path / "a.png")
    (tmp_path / "link.png").symlink_to(tmp_path / "a.png")
    for output in (tmp_path, tmp_path / "a.png", tmp_path / "link.png"):
        with pytest.raises(UsageError, match="is an input"):
            plan_jobs([str(tmp_path / "a.png")], output)


def test_a_comparison_lies_beside_its_result():
    job = Job(Path("in/a.b.jpg"), Path("out/sub/a.b.jpg"))
    assert comparison_path(job) == Path("out/sub/a.b_compare.png")


@pytest.mark.parametrize(
    ("targets", "refused"),
    [
        (["a.png", "b.png"], False),
        (["x/a.png", "y/a.png"], False),
        (["a.png", "x/a_compare.png"], False),
        (["a.png", "a_compare.jpg"], False),
        (["a.jpg", "a.png"], True),  # two comparisons
        (["a.png", "a_compare.png"], True),  # a comparison and a result
        (["a_compare.png", "a.png"], True),
        (["a.png", "A_Compare.PNG"], True),  # where a file system ignores case
        (["\u00e9.png", "e\u0301_compare.png"], True),
    ],
)
def test_no_comparison_is_written_over_another_picture(targets: list[str], refused: bool):
    jobs = [Job(Path("in", name), Path("out", name)) for name in targets]
    if not refused:
        refuse_comparison_collisions(jobs)
        return
    with pytest.raises(UsageError, match="two pictures would be written to") as caught:
        refuse_comparison_collisions(jobs)
    assert "--compare" in (caught.value.hint or "")


# --- The folder loop -----------------------------------------------------------------------------


def test_bad_files_do_not_stop_the_others_and_are_listed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    folder, output = tmp_path / "in", tmp_path / "out"
    touch(folder / "a.png", folder / "d.png")
    touch(folder / "b.png", content=b"bad")
    touch(folder / "c.png", content=b"defect")
    assert ends(["copy", folder, "-o", output, "--json"]) == 1
    shown = capsys.readouterr()
    report = json.loads(shown.out)
    assert (report["done"], report["failed"]) == (2, 2)
    codes = [entry.get("exit_code") for entry in report["files"]]
    assert codes == [None, 65, 70, None]
    assert report["files"][0]["bytes"] == 7
    assert sorted(path.name for path in output.iterdir()) == ["a.png", "d.png"]
    assert "2 of 4 failed" in shown.err
    assert shown.err.count(str(folder / "b.png")) == 2  # when it happened, and in the list
    assert "Traceback" not in shown.err


def test_the_only_file_gives_its_own_exit_code_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    touch(tmp_path / "b.png", content=b"bad")
    assert ends(["copy", tmp_path / "b.png", "-o", tmp_path / "out"]) == 65
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err == f"error: {tmp_path / 'b.png'}: not a picture\n"


def test_an_output_that_exists_is_kept_and_the_others_are_done(tmp_path: Path):
    folder, output = tmp_path / "in", tmp_path / "out"
    touch(folder / "a.png", folder / "b.png")
    touch(output / "a.png", content=b"mine")
    jobs = plan_jobs([str(folder)], output)
    with pytest.raises(PartialFailure, match="1 of 2 failed"):
        process_files(jobs, copy_work)
    assert (output / "a.png").read_bytes() == b"mine"
    assert (output / "b.png").read_bytes() == b"picture"
    with pytest.raises(OutputError, match="exists"):
        process_files(jobs[:1], copy_work)
    process_files(jobs, copy_work, overwrite=True)
    assert (output / "a.png").read_bytes() == b"picture"


# --- How a command ends --------------------------------------------------------------------------


def test_the_traceback_is_shown_with_debug_wherever_it_stands(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    touch(tmp_path / "c.png", content=b"defect")
    line = ["copy", str(tmp_path / "c.png"), "-o", str(tmp_path / "out")]
    assert ends(line) == 70
    assert "Traceback" not in capsys.readouterr().err
    assert ends([*line, "--debug"]) == 70
    shown = capsys.readouterr().err
    assert "ZeroDivisionError: nobody expected this" in shown
    assert "copy_work" in shown
    assert logging.getLogger("lowvis").handlers == []


def test_usage_errors_end_with_2_and_help_with_0(capsys: pytest.CaptureFixture[str]):
    assert ends(["copy", "--no-such-option"]) == 2
    assert ends(["no-such-command"]) == 2
    assert capsys.readouterr().out == ""
    assert ends(["copy", "--help"]) == 0
    assert ends(["--version"]) == 0
    assert capsys.readouterr().out.splitlines()[-1].startswith("lowvis-shared ")


@pytest.mark.parametrize(("text", "side"), [("auto", None), ("0", 0), ("256", 256)])
def test_tile_values(text: str, side: int | None):
    assert parse_tile(text) == side


@pytest.mark.parametrize("text", ["-1", "big", "", "1.5"])
def test_a_tile_that_is_no_number_is_refused(text: str):
    with pytest.raises(UsageError, match="neither 'auto' nor"):
        parse_tile(text)


def test_json_holds_what_python_has(capsys: pytest.CaptureFixture[str]):
    print_json({"path": Path("a"), "psnr": float("inf"), "sides": (1, 2.5), "name": "\udcff"})
    shown = json.loads(capsys.readouterr().out)
    assert shown == {"path": "a", "psnr": None, "sides": [1, 2.5], "name": "\udcff"}


def test_names_outside_unicode_and_with_a_leading_dash_are_taken(
    tmp_path: Path, command: list[str]
):
    odd = os.fsencode(tmp_path) + b"/caf\xe9 '1'.png"
    try:
        Path(os.fsdecode(odd)).write_bytes(b"picture")
    except OSError:
        pytest.skip("this file system holds Unicode names only")
    touch(tmp_path / "-o.png", tmp_path / "--debug")
    ran = subprocess.run(
        [*command, "copy", "-o", "out", "--json", "--", "-o.png", "--debug", odd],
        cwd=tmp_path, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    assert json.loads(ran.stdout)["done"] == 3
    written = sorted(os.fsencode(path.name) for path in (tmp_path / "out").iterdir())
    assert written == [b"--debug.png", b"-o.png", b"caf\xe9 '1'.png"]


def test_a_reader_that_leaves_early_causes_no_noise(command: list[str]):
    process = subprocess.Popen([*command, "many"], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.read(10) == b'{\n  "numbe'
    process.stdout.close()
    assert process.stderr is not None
    with process.stderr:
        assert process.stderr.read() == b""
    assert process.wait() in (0, 1)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interrupted_run_says_how_far_it_came_and_leaves_nothing_half_done(
    tmp_path: Path, command: list[str], number: int, code: int
):
    touch(tmp_path / "in" / "a.png", tmp_path / "in" / "b.png")
    output = tmp_path / "out"
    output.mkdir()
    process = subprocess.Popen(
        [*command, "copy", str(tmp_path / "in"), "-o", str(output), "--wait", "60"],
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=heed_interrupts,
    )
    deadline = time.monotonic() + 60
    while not (output / "started").exists():
        assert time.monotonic() < deadline, "the command never started its work"
        time.sleep(0.05)
    process.send_signal(number)
    _, shown = process.communicate(timeout=60)
    assert process.returncode == code
    assert "warning: interrupted: 0 of 2 done" in shown
    assert "Traceback" not in shown
    assert [path.name for path in output.iterdir()] == ["started"]


def test_progress_is_drawn_in_a_terminal_only(tmp_path: Path, command: list[str]):
    touch(tmp_path / "in" / "a.png", tmp_path / "in" / "b.png")
    line = [*command, "copy", str(tmp_path / "in"), "-o"]
    piped = subprocess.run([*line, str(tmp_path / "1")], capture_output=True, text=True, check=True)
    assert piped.stdout == ""
    notes = [f"note: wrote {tmp_path / '1' / name}" for name in ("a.png", "b.png")]
    assert piped.stderr.splitlines() == notes
    master, slave = pty.openpty()
    subprocess.run(
        [*line, str(tmp_path / "2")], stderr=slave, check=True, env=os.environ | {"TERM": "xterm"}
    )
    os.close(slave)
    shown = os.read(master, 1 << 16)
    os.close(master)
    assert b"2/2" in shown
    assert shown.count(b"note: wrote") == 2


def test_reports_are_refused_before_any_work(tmp_path: Path) -> None:
    (tmp_path / "here.md").write_text("old")
    for names, message in (
        (["a.pdf"], "a report is one of .md, .csv"),
        (["a.md", "b.csv", "a.md"], "two reports would be written to one file"),
    ):
        with pytest.raises(UsageError, match=message):
            check_reports([tmp_path / name for name in names], (".md", ".csv"), overwrite=False)
    with pytest.raises(OutputError, match="exists already"):
        check_reports([tmp_path / "here.md"], (".md",), overwrite=False)
    check_reports([tmp_path / "here.md"], (".md",), overwrite=True)


def test_a_report_of_each_kind_is_written(tmp_path: Path) -> None:
    writers = {".md": lambda result: f"# {result}", ".csv": lambda result: f"value,{result}"}
    paths = [tmp_path / "new" / "a.MD", tmp_path / "b.csv"]
    write_reports(paths, writers, "größer", overwrite=False)
    assert [path.read_text(encoding="utf-8") for path in paths] == ["# größer", "value,größer"]


def test_json_has_no_word_for_infinity() -> None:
    text = json_text({"path": Path("a"), "values": (1.5, float("inf"), float("nan"))})
    assert json.loads(text) == {"path": "a", "values": [1.5, None, None]}
