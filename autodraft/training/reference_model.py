"""`python -m autodraft.training.reference_model`: train and export the bundled model.

Parses the command line and puts corpus, trainer and export together; the work is done elsewhere.
The same command resumes a stopped run. Nothing is written to the repository except the exported folder.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import sys
from functools import partial
from pathlib import Path

import torch

from autodraft.training import checkpoint
from autodraft.training.config import DEFAULT_PHASES, ModelShape, Phase, TrainConfig
from autodraft.training.corpus import load_corpus
from autodraft.training.export import export
from autodraft.training.parallel import Team, run_team
from autodraft.training.summary import RecipeResult, summarise
from autodraft.training.tokens import prepare
from autodraft.training.trainer import Trainer

DEFAULT_EXPORT = Path(__file__).resolve().parents[1] / "assets" / "llama"
CPU_TOKENS_PER_STEP, CUDA_TOKENS_PER_STEP = 2048, 32_768


def default_work_dir() -> Path:
    """A folder of the user's cache, outside any repository."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return cache / "autodraft" / "reference-model"


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="reference_model", description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--minutes", type=float, default=90.0, help="training time in all, over all resumptions")
    parser.add_argument("--tokens", type=int, help="a budget of tokens instead of --minutes")
    parser.add_argument("--tokens-per-step", type=int, help="default: 2,048 on a CPU, 32,768 on CUDA")
    parser.add_argument(
        "--num-blocks", type=int, default=ModelShape.num_blocks, help="depth; for siblings of the model"
    )
    parser.add_argument("--layer-dropout", type=float, default=0.2, help="chance to skip the last sub-layer")
    parser.add_argument("--max-window", type=int, default=1024, help="longest training window in tokens")
    parser.add_argument("--extra-source", type=Path, action="append", default=[], help="more Python source")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--threads", type=int, help="CPU threads; default: torch's own choice")
    parser.add_argument("--processes", type=int, default=1, help="CPU processes that share each step's windows")
    parser.add_argument("--no-compile", action="store_true", help="run without torch.compile")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--work-dir", type=Path, default=default_work_dir(), help="checkpoints and progress")
    parser.add_argument("--data-dir", type=Path, help="encoded corpus; default: a folder of --work-dir")
    parser.add_argument("--export", type=Path, default=DEFAULT_EXPORT, help="where the trained model goes")
    parser.add_argument("--no-export", action="store_true")
    parser.add_argument("--export-only", action="store_true", help="export the last checkpoint, train nothing")
    parser.add_argument("--result", type=Path, help="also write this run's recipe figures as JSON")
    parser.add_argument("--comparison", type=Path, help="JSON list of such figures, for the model card")
    return parser.parse_args(argv)


def train_config(args: argparse.Namespace) -> TrainConfig:
    """The run that the command line asks for."""
    on_cuda = args.device.startswith("cuda")
    phases = tuple(
        Phase(phase.start, {n: w for n, w in phase.weights.items() if n <= args.max_window}) for phase in DEFAULT_PHASES
    )
    return TrainConfig(
        shape=ModelShape(num_blocks=args.num_blocks),
        minutes=args.minutes,
        tokens=args.tokens,
        tokens_per_step=args.tokens_per_step or (CUDA_TOKENS_PER_STEP if on_cuda else CPU_TOKENS_PER_STEP),
        phases=tuple(phase for phase in phases if phase.weights),
        layer_dropout=args.layer_dropout,
        compile=not args.no_compile and (on_cuda or shutil.which("g++") is not None),
        seed=args.seed,
    )


def train_and_export(args: argparse.Namespace, config: TrainConfig, team: Team) -> None:
    """One process's part of the job; the leader alone judges and exports the model."""
    if args.threads:
        torch.set_num_threads(args.threads)
    corpus = load_corpus(args.extra_source)
    shape = config.shape
    encoded = prepare(corpus, args.data_dir or args.work_dir / "data", shape.vocab_size, shape.max_positions)
    texts = [file.text for file in corpus.training]
    trainer = Trainer(config, encoded, texts, args.work_dir, torch.device(args.device), team)
    if not args.export_only:
        trainer.run()
    if not team.leads:
        return
    comparison: list[RecipeResult] = json.loads(args.comparison.read_text()) if args.comparison else []
    summary = summarise(trainer, corpus, encoded, bool(args.extra_source), comparison)
    if args.result:
        args.result.write_text(json.dumps(summary.recipe_result, indent=2) + "\n")
    if not args.no_export:
        export(trainer.model, encoded.tokenizer, summary, args.export)
        print(f"exported to {args.export}", file=sys.stderr)


def main(argv: list[str] | None = None) -> int:
    """Train, or resume, and export; returns the exit status."""
    args = parse(argv)
    if args.processes == 1:  # leave a checkpoint, as Ctrl-C does
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    config = train_config(args)
    if args.export_only:
        saved = checkpoint.load(args.work_dir)
        if saved is None:
            print(f"nothing to export: no checkpoint in {args.work_dir}", file=sys.stderr)
            return 1
        config = TrainConfig.from_recipe(saved["recipe"])
    run_team(1 if args.export_only else args.processes, partial(train_and_export, args, config))
    return 0


if __name__ == "__main__":
    sys.exit(main())
