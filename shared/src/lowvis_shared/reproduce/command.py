"""Every package's command ``reproduce``."""

from collections.abc import Mapping
from typing import Annotated

import typer

from lowvis_shared.cli import (
    AcceptLicenceOption,
    DataDirOption,
    DeviceOption,
    JsonOption,
    OfflineOption,
    logger,
    print_json,
)
from lowvis_shared.errors import ReproductionError
from lowvis_shared.plugins import PackageInfo
from lowvis_shared.reproduce.evidence import update
from lowvis_shared.reproduce.paper import load_paper
from lowvis_shared.reproduce.results import (
    Context,
    Measurer,
    as_json,
    find_root,
    raise_if_outside,
    run_paper,
    show_table,
    write_result,
)


def add_reproduce(
    app: typer.Typer, package: PackageInfo, measurers: Mapping[str, Measurer]
) -> None:
    """Give an application the command ``reproduce``; see `reproduce_package`."""

    @app.command()
    def reproduce(  # pyright: ignore[reportUnusedFunction] - typer calls it
        only: Annotated[
            str, typer.Option(help="A glob over the ids of the rows, such as '*/psnr'.")
        ] = "*",
        data_dir: DataDirOption = None,
        device: DeviceOption = "auto",
        accept_licence: AcceptLicenceOption = False,
        offline: OfflineOption = False,
        json: JsonOption = False,
    ) -> None:
        """Measure what the paper claims; in a checkout, write the evidence and update the pages."""
        context = Context(
            device=device, data_dir=data_dir, accept_licence=accept_licence, offline=offline
        )
        reproduce_package(package, measurers, context, only=only, json=json)


def reproduce_package(
    package: PackageInfo,
    measurers: Mapping[str, Measurer],
    context: Context | None = None,
    *,
    only: str = "*",
    json: bool = False,
) -> None:
    """Measure a paper's rows and show the table; in a checkout also keep the evidence.

    Evidence, ``benchmarks/results/<word>/<date>-<commit>.json`` and the tables in the pages made
    from it, is written only for a run over all rows.

    Args:
        package: Whose paper.
        measurers: By the ``kind`` of a row's ``measure``; see `run_paper`.
        context: What the measurers may use.
        only: A glob over the ids of the rows.
        json: Print the evidence as one JSON object, not the table.

    Raises:
        ReproductionError: A row that ran fell outside its tolerance.
    """
    paper = load_paper(package.paper_toml)
    result = run_paper(paper, measurers, context, only=only)
    if json:
        print_json(as_json(result))
    else:
        show_table(result)
    root = find_root()
    if root is not None and len(result.rows) == len(paper.rows):
        logger.info("wrote %s", write_result(result, root / "benchmarks" / "results"))
        try:
            for page in update(root):
                logger.info("updated %s", page)
        except ReproductionError as error:  # a page names a row that could not run here
            logger.warning("the pages are left as they are: %s", error)
    raise_if_outside(result)
