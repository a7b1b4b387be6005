"""Few-shot learning with sparse heads, from nothing to a table and a figure in a few minutes: ``make demo``.

Meta-trains Conv4 through the group-Lasso SVM on the training characters of Glyphs. Then, on episodes of Greek and
Cyrillic characters and on this one encoder, compares ProtoNet, ridge, SVM and the group-Lasso SVM of several l1.
"""

import csv
import dataclasses
import shlex
from collections.abc import Sequence
from pathlib import Path

import lightning as L
from jsonargparse import ArgumentParser
from rich import box
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from .cli import progress_bar, quiet_lightning
from .comparison import Result, compare_heads, draw_episodes, encode, n_solves
from .datasets.glyphs import Glyphs
from .encoders import Conv4, Encoder
from .few_shot import FewShotData, FewShotLearner
from .figures import few_shot_figure
from .heads import SVMHead
from .resume import Resumable

WAY = 5
SHOTS = (1, 5)
QUERY = 8  # the most that Glyphs has for five shots
COLUMNS = tuple(field.name for field in dataclasses.fields(Result) if field.name != "usage")


def main(args: Sequence[str] | None = None) -> None:
    """Run the demo with the options in ``args``, by default those of the process."""
    parser = ArgumentParser(prog="python -m implicitlayers.models.demo", description=__doc__)
    parser.add_function_arguments(demo)
    parser.add_argument("--quick", action="store_true", help="a smoke test: 10 steps and 50 episodes in any case")
    options = vars(parser.parse_args(args))
    if options.pop("quick"):
        options |= {"steps": 10, "episodes": 50}
    demo(**options)


def demo(steps: int = 200, episodes: int = 600, seed: int = 0, output: Path = Path("runs/demo")) -> list[Result]:
    """Train, evaluate, print a table, write results.csv and figure.png.

    Stop it at any time: the next call with the same steps, seed and output goes on from where training stood.

    Args:
        steps: training steps of 8 episodes.
        episodes: test episodes for each number of shots; as many choose the strengths on validation characters.
        seed: of the encoder's initial weights and of all episodes.
        output: folder of the results.
    """
    resumable = Resumable(output / "checkpoints" / f"steps={steps}-seed={seed}")
    options = f"--steps {steps} --episodes {episodes} --seed {seed} --output {shlex.quote(str(output))}"
    resumable.command = f"python -m implicitlayers.models.demo {options}"
    encoder = train_encoder(steps, seed, resumable)
    results = evaluate_heads(encoder, episodes, seed)
    write_csv(results, output / "results.csv")
    few_shot_figure(results).savefig(output / "figure.png", dpi=200)
    Console().print(table(results))
    print(f"Written: {output / 'results.csv'}, {output / 'figure.png'}")
    return results


def train_encoder(steps: int, seed: int, resumable: Resumable) -> Encoder:
    """Conv4, meta-trained through the group-Lasso SVM, from the resumable checkpoint if there is one."""
    quiet_lightning()
    L.seed_everything(seed, verbose=False)
    learner = FewShotLearner(Conv4(), SVMHead(l2=0.003, l1=0.002))
    data = FewShotData(way=WAY, shot=5, steps=steps, seed=seed)
    trainer = L.Trainer(
        max_epochs=1,
        limit_val_batches=0,
        logger=False,
        callbacks=[resumable, progress_bar()],
        enable_model_summary=False,
    )
    checkpoint = resumable.ckpt_path(trainer)
    trainer.fit(learner, data, ckpt_path=checkpoint if checkpoint.exists() else None)
    return learner.encoder


def evaluate_heads(encoder: Encoder, episodes: int, seed: int) -> list[Result]:
    """All heads on test episodes, their strengths chosen on validation episodes, for each number of shots."""
    encoded = [encode(encoder, Glyphs(split)) for split in ("val", "test")]
    drawn = [[draw_episodes(images, WAY, shot, QUERY, episodes, seed) for images in encoded] for shot in SHOTS]
    with Progress() as progress:
        task = progress.add_task("Evaluating", total=sum(n_solves(val, test) for val, test in drawn))
        advance = lambda: progress.advance(task)  # noqa: E731
        return [result for val, test in drawn for result in compare_heads(val, test, advance)]


def write_csv(results: Sequence[Result], path: Path) -> None:
    """One row per result, columns as in `Result`, accuracies as fractions."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, COLUMNS, extrasaction="ignore")
        writer.writeheader()
        writer.writerows(vars(result) for result in results)


def table(results: Sequence[Result]) -> Table:
    """The results for people: accuracies in percent, strengths chosen in validation marked."""
    table = Table(
        title="Test characters: accuracy ± 95 % interval over episodes, worst gap", box=box.SIMPLE, padding=(0, 0, 0, 1)
    )
    table.add_column("head", no_wrap=True)
    for name in ("l1", "shots", "accuracy %", "used %", "gap", "flagged", "chosen"):
        table.add_column(name, justify="right", no_wrap=True)
    for r in results:
        table.add_row(
            r.head,
            f"{r.l1:g}" if r.l1 > 0 else "",
            str(r.shot),
            f"{100 * r.accuracy:.2f} ± {100 * r.ci95:.2f}",
            f"{100 * r.features_used:.1f}",
            f"{r.worst_gap:.0e}",
            str(r.flagged),
            "✓" if r.selected else "",
            end_section=r is results[-1] or r.shot != results[results.index(r) + 1].shot,
            style="bold" if r.selected else None,
        )
    return table


if __name__ == "__main__":
    main()
