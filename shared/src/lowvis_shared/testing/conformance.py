"""What holds for every lowvis package, as tests that each of them runs.

from lowvis_shared.testing import PackageConformance

class TestConformance(PackageConformance):
    word = "pan"
"""

# ruff: noqa: S101 - these are tests

import inspect
import re
import shlex
import subprocess
import sys
import tomllib
from importlib import import_module
from importlib.metadata import entry_points, version
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, ClassVar

import torch
import typer
from torch import Tensor, nn

from lowvis_shared.checkpoint import load_weights_file
from lowvis_shared.files import sha256_file
from lowvis_shared.plugins import ModelEntry, PackageInfo, discover, load_package
from lowvis_shared.reproduce import load_paper
from lowvis_shared.tiling import minimum_tile, run_tiled

if TYPE_CHECKING:
    import pytest

MODULES = (
    "__init__.py",
    "cli.py",
    "evaluate.py",
    "model.py",
    "paper.toml",
    "predict.py",
    "py.typed",
    "reproduce.py",
    "weights.py",
)
OF_NETWORKS = ("evaluate.py", "model.py", "predict.py", "weights.py")
TRAINING = ("conf", "train.py")
HEAVY = (
    "hydra",
    "lightning",
    "lightning_fabric",
    "matplotlib",
    "onnx",
    "onnxruntime",
    "openvino",
    "skimage",
    "spandrel",
    "wandb",
)
CARD_WORDS = ("data", "command", "seed", "hardware", "time", "licence")
CODE_BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


class PackageConformance:
    """Subclass it with the `word` of a package; override what the package does differently.

    Attributes:
        word: The paper's word.
        modules: Files of the installed package, besides those that training needs. A package
            without networks needs none of `OF_NETWORKS`.
    """

    word: ClassVar[str]
    modules: ClassVar[tuple[str, ...]] = MODULES

    # --- What a package may override -------------------------------------------------------------

    def failing_arguments(self, folder: Path) -> list[str]:
        """Arguments of the main verb that name an input which does not exist in `folder`."""
        return [str(folder / "absent.png"), "-o", str(folder / "out")]

    def tiny_input(self, entry: ModelEntry) -> Tensor:
        """A small input of odd sizes for a network: (1, 3, 19, 23) in [0, 1]."""
        del entry
        return torch.rand(1, 3, 19, 23, generator=torch.Generator().manual_seed(0))

    # --- Set-up ------------------------------------------------------------------------------

    threads: ClassVar[int]

    @classmethod
    def setup_class(cls) -> None:
        """Compute on one thread: many small convolutions on busy cores are far slower on more."""
        cls.threads = torch.get_num_threads()
        torch.set_num_threads(1)

    @classmethod
    def teardown_class(cls) -> None:
        """Give the threads back."""
        torch.set_num_threads(cls.threads)

    # --- Helpers ---------------------------------------------------------------------------------

    @property
    def package(self) -> PackageInfo:
        """What the package says about itself."""
        return load_package(self.word)

    @property
    def module(self) -> ModuleType:
        """The imported package."""
        return import_module(f"lowvis_{self.word}")

    @property
    def folder(self) -> Path:
        """The folder of the imported package."""
        return Path(str(self.module.__file__)).parent

    @property
    def project(self) -> Path:
        """The folder of the project in the checkout: where pyproject.toml and README.md are."""
        return self.folder.parents[1]

    def command(
        self, monkeypatch: "pytest.MonkeyPatch", capsys: "pytest.CaptureFixture[str]", *line: str
    ) -> tuple[int, str, str]:
        """Run the package's command here: its exit code, standard output and standard error."""
        (script,) = entry_points(group="console_scripts", name=f"lowvis-{self.word}")
        monkeypatch.setattr(sys, "argv", [script.name, *line])
        code: object = None
        try:
            script.load()()
        except SystemExit as ending:
            code = ending.code
        shown = capsys.readouterr()
        assert isinstance(code, int), f"{script.name} did not end through lowvis_shared.cli.run"
        return code, shown.out, shown.err

    @classmethod
    def pytest_generate_tests(cls, metafunc: "pytest.Metafunc") -> None:
        """Run a test that takes `model_name` once for each network of the package.

        Where it has none, pytest skips the test: the set of parameters is empty.
        """
        if "model_name" in metafunc.fixturenames and hasattr(cls, "word"):
            names = [entry.name for entry in load_package(cls.word).models]
            metafunc.parametrize("model_name", names)

    # --- The package -----------------------------------------------------------------------------

    def test_it_is_found_by_its_word(self) -> None:
        """Its entry point gives its PACKAGE, whose texts are all there."""
        assert self.word in discover()
        assert self.package is self.module.PACKAGE
        for name in ("title", "paper", "url", "verb"):
            assert getattr(self.package, name), f"PACKAGE.{name} is empty"

    def test_version_is_that_of_the_distribution(self) -> None:
        """``__version__`` is what pip says."""
        assert self.module.__version__ == version(f"lowvis-{self.word}")

    def test_files_are_where_every_package_has_them(self) -> None:
        """The anatomy that all packages share; training files exactly where it trains."""
        needed = set(self.modules)
        if not self.package.models:
            needed -= set(OF_NETWORKS)
        missing = sorted(name for name in needed if not (self.folder / name).exists())
        assert not missing, f"missing: {missing}"
        for name in TRAINING:
            there = (self.folder / name).exists()
            assert there or not self.package.trains, f"it trains, but has no {name}"
        assert self.package.trains == (self.folder / "train.py").exists()

    def test_importing_it_is_light(self) -> None:
        """Neither the package nor its ``--help`` imports optional or heavy libraries."""
        code = (
            f"import contextlib, io, sys; import lowvis_{self.word}.cli as cli;"
            f"sys.argv = ['lowvis-{self.word}', '--help']\n"
            "with contextlib.redirect_stdout(io.StringIO()), contextlib.suppress(SystemExit):"
            " cli.main()\n"
            f"print(*sorted(set(sys.modules) & set({HEAVY!r})))"
        )
        ran = subprocess.run(  # noqa: S603 - our own code
            [sys.executable, "-c", code], capture_output=True, text=True, check=False
        )
        assert ran.returncode == 0, ran.stderr
        heavy = ran.stdout.strip()
        assert heavy == "", f"importing lowvis_{self.word} imports {heavy}"

    def test_public_names_are_documented(self) -> None:
        """Every class and function that the package exports has a docstring."""
        exported: list[str] = getattr(
            self.module, "__all__", [name for name in vars(self.module) if name[0] != "_"]
        )
        bare = [
            name
            for name in exported
            if (inspect.isclass(value := getattr(self.module, name)) or inspect.isfunction(value))
            and not value.__doc__
        ]
        assert not bare, f"without docstring: {bare}"
        assert self.module.__doc__, "the package itself has no docstring"

    # --- The command -----------------------------------------------------------------------------

    def test_help_and_version(
        self, monkeypatch: "pytest.MonkeyPatch", capsys: "pytest.CaptureFixture[str]"
    ) -> None:
        """``--help`` names the main verb, ``--version`` the version."""
        code, shown, _ = self.command(monkeypatch, capsys, "--help")
        assert code == 0
        assert self.package.verb in shown
        code, shown, _ = self.command(monkeypatch, capsys, "--version")
        assert (code, shown) == (0, f"lowvis-{self.word} {version(f'lowvis-{self.word}')}\n")

    def test_every_command_has_help(self) -> None:
        """Main verb and reproduce exist, evaluate where there are networks, train where it trains.

        They explain themselves, and so does every other command, and each of their options.
        """
        group: Any = typer.main.get_command(import_module(f"lowvis_{self.word}.cli").app)
        wanted = {self.package.verb, "reproduce"}
        wanted |= {"evaluate"} if self.package.models else set[str]()
        wanted |= {"train"} if self.package.trains else set[str]()
        assert wanted <= set(group.commands), f"missing: {wanted - set(group.commands)}"
        waiting = list(group.commands.items())
        while waiting:
            name, command = waiting.pop()
            waiting += [(f"{name} {n}", c) for n, c in getattr(command, "commands", {}).items()]
            assert command.help, f"{name} has no help"
            for parameter in command.params:
                assert parameter.help, f"{name} {parameter.name} has no help"

    def test_a_missing_input_is_one_line_and_no_traceback(
        self,
        tmp_path: Path,
        monkeypatch: "pytest.MonkeyPatch",
        capsys: "pytest.CaptureFixture[str]",
    ) -> None:
        """The main verb names the input and ends with 65 or 2; nothing is written."""
        arguments = self.failing_arguments(tmp_path)
        code, shown, said = self.command(monkeypatch, capsys, self.package.verb, *arguments)
        assert code in (2, 65), said
        assert shown == ""
        errors = [line for line in said.splitlines() if line.startswith("error: ")]
        assert len(errors) == 1, said
        assert "absent" in errors[0]
        assert "Traceback" not in said
        assert not list(tmp_path.iterdir())

    # --- The paper -------------------------------------------------------------------------------

    def test_paper_is_read_strictly(self) -> None:
        """``paper.toml`` has no unknown key, no row that contradicts itself, and its own word."""
        paper = load_paper(self.package.paper_toml)
        assert paper.word == self.word
        assert (paper.title, paper.url) == (self.package.title, self.package.url)

    # --- The networks ----------------------------------------------------------------------------

    def build(self, model_name: str) -> nn.Module:
        """The network with fixed random weights, in evaluation mode."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            return self.package.model(model_name).build().eval()

    @torch.inference_mode()
    def test_network_runs_on_a_tiny_picture_of_odd_sides(self, model_name: str) -> None:
        """The output is finite and `scale` times as large."""
        entry = self.package.model(model_name)
        tiny = self.tiny_input(entry)
        output = self.build(model_name)(tiny)
        assert output.shape[-2:] == tuple(entry.scale * side for side in tiny.shape[-2:])
        assert bool(output.isfinite().all())

    @torch.inference_mode()
    def test_state_dict_round_trips(self, model_name: str) -> None:
        """The state of one network, loaded strictly into another, makes it compute the same."""
        entry = self.package.model(model_name)
        network, other = self.build(model_name), entry.build().eval()
        other.load_state_dict(network.state_dict(), strict=True)
        tiny = self.tiny_input(entry)
        assert bool(torch.equal(network(tiny), other(tiny)))

    @torch.inference_mode()
    def test_receptive_radius_is_true(self, model_name: str) -> None:
        """A pixel farther away than `receptive_radius` changes no bit of the output."""
        entry = self.package.model(model_name)
        if entry.tiling == "global":
            _skip(f"{model_name} looks at the whole picture")
        radius, scale = entry.receptive_radius, entry.scale
        # In float64 the convolutions are plain sums: no transform mixes distant pixels in rounding.
        network = self.build(model_name).double()
        strip = torch.rand(1, 3, 5, 3 * radius + 16, dtype=torch.float64)
        for picture in (strip, strip.mT):
            changed = picture.clone()
            changed[:, :, :5, :5] = 1 - changed[:, :, :5, :5]  # the first five rows or columns
            difference = (network(picture) != network(changed)).any(dim=1)[0]
            assert bool(difference.any()), "a changed pixel changes nothing at all"
            reach = int(difference.nonzero().max()) // scale - 4
            assert reach <= radius, f"radius {radius} is too small: {reach} pixels away matter"

    @torch.inference_mode()
    def test_tiles_equal_the_whole(self, model_name: str) -> None:
        """Tiles whose halo is `receptive_radius` give the whole picture's output."""
        entry = self.package.model(model_name)
        if entry.tiling == "global":
            _skip(f"{model_name} looks at the whole picture")
        network = self.build(model_name)
        tile = minimum_tile(entry.receptive_radius)
        picture = torch.rand(1, 3, tile + 7, tile + entry.receptive_radius + 5)
        tiled = run_tiled(
            network, picture, scale=entry.scale, tile=tile, halo=entry.receptive_radius
        )
        torch.testing.assert_close(tiled, network(picture), rtol=1e-5, atol=1e-5)

    @torch.inference_mode()
    def test_own_weights_load_and_have_a_card(self, model_name: str) -> None:
        """The weights in the wheel load, are finite, and the model card vouches for the file.

        They lie in ``weights/<model name with underscores>.safetensors``; ``weights/MODEL_CARD.md``
        gives the SHA-256 of each and tells of data, command, seed, hardware, time and licence.
        """
        entry = self.package.model(model_name)
        if "own" not in entry.weights:
            _skip(f"{model_name} has no weights of our own")
        network = entry.load("own")
        assert not network.training
        assert bool(network(self.tiny_input(entry)).isfinite().all())
        file = self.folder / "weights" / f"{model_name.replace('-', '_')}.safetensors"
        _, metadata = load_weights_file(file)
        assert metadata, f"{file.name} says nothing of itself"
        card = (self.folder / "weights" / "MODEL_CARD.md").read_text(encoding="utf-8")
        assert file.name in card
        assert sha256_file(file) in card, f"the model card is of another {file.name}"
        missing = [word for word in CARD_WORDS if word not in card.lower()]
        assert not missing, f"the model card does not tell of {missing}"

    # --- The project (in a checkout) -------------------------------------------------------------

    def test_project_says_what_it_needs(self) -> None:
        """Names, entry point and dependencies follow the word."""
        if not (self.project / "pyproject.toml").is_file():
            _skip("not a checkout")
        content = tomllib.loads((self.project / "pyproject.toml").read_text(encoding="utf-8"))
        project = content["project"]
        assert project["name"] == f"lowvis-{self.word}"
        assert project["scripts"] == {f"lowvis-{self.word}": f"lowvis_{self.word}.cli:main"}
        assert any(need.startswith("lowvis-shared") for need in project["dependencies"])
        for name in ("README.md", "CHANGELOG.md", "LICENSE"):
            assert (self.project / name).stat().st_size, f"{name} is empty"

    def test_readme_shows_code_and_commands_that_parse(self) -> None:
        """The README has Python that compiles and command lines of commands that exist."""
        readme = self.project / "README.md"
        if not readme.is_file():
            _skip("not a checkout")
        blocks = CODE_BLOCK.findall(readme.read_text(encoding="utf-8"))
        python = [text for language, text in blocks if language == "python"]
        shell = [text for language, text in blocks if language in ("sh", "bash", "console")]
        assert python, "no python block"
        for text in python:
            compile(text, str(readme), "exec")
        group: Any = typer.main.get_command(import_module(f"lowvis_{self.word}.cli").app)
        lines = "\n".join(shell).replace("\\\n", " ").splitlines()
        used = [
            words
            for line in lines
            if (words := shlex.split(line.removeprefix("$ "), comments=True))[:1]
            == [f"lowvis-{self.word}"]
        ]
        assert used, f"no command block uses lowvis-{self.word}"
        for words in used:
            chosen, rest = group, words[1:]
            while rest and rest[0] in getattr(chosen, "commands", {}):
                chosen = chosen.commands[rest.pop(0)]
            assert chosen is not group or rest[0].startswith("-"), " ".join(words)
            # A command that takes unknown options hands them to someone else, such as Hydra.
            if not chosen.context_settings.get("ignore_unknown_options"):
                known = {o for p in chosen.params for o in p.opts} | {"--help"}
                options = {word.partition("=")[0] for word in rest if word.startswith("--")}
                assert options <= known | {"--debug", "--"}, " ".join(words)


def _skip(reason: str) -> None:
    import pytest

    pytest.skip(reason)
