"""The experiments of Lachapelle et al., "Synergies between Disentanglement and Sparsity" (ICML 2023).

python -m benchmarks.paper generalisation                   Section 2: sparse predictors generalise better
python -m benchmarks.paper latents --study strength         disentanglement, on latents through a random network
python -m benchmarks.paper shapes --study correlation       the same on rendered 3D shapes

Interrupted at any time, the same command continues. Every setting of a run is an option, for example
--base.steps 1000; the studies are in benchmarks/paper/configs/.
"""

from collections.abc import Sequence
from pathlib import Path

from jsonargparse import ActionConfigFile, ArgumentParser, Namespace
from rich.console import Console

from .figures import generalisation_figure
from .generalisation import generalisation, n_cells
from .released import agreement, comparison_table, means, released
from .settings import Setting, Study, settings_of
from .studies import progress_bar, run_study

CONFIGS = Path(__file__).with_name("configs")


def main(args: Sequence[str] | None = None) -> None:
    """Run the command line on ``args``, by default those of the process."""
    parser = ArgumentParser(prog="python -m benchmarks.paper", description=__doc__)
    commands = parser.add_subcommands()
    commands.add_subcommand("generalisation", _generalisation_parser(), help="Section 2")
    for name in ("latents", "shapes"):
        commands.add_subcommand(name, _experiment_parser(name), help=f"disentanglement on {name}")
    options = parser.parse_args(args)
    chosen = options[options.subcommand]
    if options.subcommand == "generalisation":
        run_generalisation(chosen.seeds, Path(chosen.output))
        return
    try:
        run_experiment(chosen)
    except ValueError as error:
        parser.error(str(error))


def run_generalisation(seeds: int, output: Path) -> None:
    """Section 2: results.csv, a table beside the released numbers, and the figure."""
    with progress_bar() as progress:
        task = progress.add_task("Section 2", total=n_cells())
        results = generalisation(seeds, output, advance=lambda: progress.advance(task))
    rows = [row for row in results.rows if int(row["seed"]) < seeds]
    generalisation_figure(rows).savefig(output / "generalisation.png", dpi=150)
    ours, theirs = means(rows), released()
    console = Console(width=120)
    console.print(comparison_table(ours, theirs))
    gap, flagged = max(float(row["worst_gap"]) for row in rows), sum(int(row["flagged"]) for row in rows)
    print(f"{seeds} seeds, worst relative gap {gap:.0e}, {flagged} flagged solves")
    print(agreement(ours, theirs))
    print(f"Written: {results.path}, {output / 'generalisation.png'}")


def run_experiment(options: Namespace) -> None:
    """The chosen study of an experiment, or all."""
    base = Setting(**vars(options.base))
    studies = {name: Study(**vars(study)) for name, study in options.studies.items()}
    if options.study != "all" and options.study not in studies:
        raise ValueError(f"study: given {options.study!r}, expected all or one of {', '.join(studies)}")
    for name, study in studies.items():
        if options.study in ("all", name):
            run_study(name, study, settings_of(study, base, options.strengths), Path(options.output))


def _generalisation_parser() -> ArgumentParser:
    parser = ArgumentParser(description="Section 2: test R² of Lasso, ridge and least squares")
    parser.add_argument("--seeds", type=int, default=20, help="number of data sets")
    parser.add_argument("--output", type=Path, default=Path("runs/generalisation"), help="folder of the results")
    return parser


def _experiment_parser(name: str) -> ArgumentParser:
    parser = ArgumentParser(
        description=f"disentanglement on {name}", default_config_files=[str(CONFIGS / f"{name}.yaml")]
    )
    parser.add_argument("--config", action=ActionConfigFile, help="a YAML file in the place of the shipped one")
    parser.add_argument("--study", type=str, default="main", help="which study, or all")
    parser.add_argument("--output", type=Path, default=Path("runs") / name, help="folder of the results")
    parser.add_argument("--base", type=Setting, default=Setting(), help="what the studies do not vary")
    parser.add_argument("--strengths", type=dict[str, float], default={}, help="for each method, where not varied")
    parser.add_argument("--studies", type=dict[str, Study], default={}, help="by name")
    return parser


if __name__ == "__main__":
    main()
