"""Kill and stop processes of running runs: `python -m launch.chaos runs=N`.

    undisturbed run, N trials: start -> strike -> (ended: start again)* -> what became of it

A trial trains the quickstart at small size and sends a random process of it SIGKILL, SIGSTOP or
SIGTERM at a random moment. Prints a line of JSON for each and a table; exits with 1 if a trial lost
or doubled tickets, hung, or left something behind. The same command goes on where it stopped.
"""

import json

import hydra
from omegaconf import DictConfig

from conf.chaos import ChaosConfig
from conf.programs import register
from launch.cli.refusals import RunError
from launch.program import build, run_program, start

WIDTH = 240
"""Columns of the table."""
register()


@hydra.main(version_base="1.3", config_path="../conf", config_name="chaos")
def main(composed: DictConfig) -> None:
    """Run the trials as configured."""

    def program() -> None:
        from rich.console import Console

        from launch.study.chaos.outcomes import faults, to_json
        from launch.study.chaos.study import run_trials, whole_tickets
        from launch.study.chaos.tables import sentence_of, table_of

        config: ChaosConfig = build(composed)
        tickets = whole_tickets(config)
        trials = run_trials(config, lambda trial: print(json.dumps(to_json(trial)), flush=True))
        console = Console(width=WIDTH)
        console.print(table_of(trials, config.num_steps, tickets))
        console.print(sentence_of(trials), markup=False, highlight=False)
        faulty = [trial for trial in trials if faults(trial, config.num_steps, tickets)]
        if faulty:
            numbers = ", ".join(str(trial.number) for trial in faulty)
            raise RunError(f"trials {numbers} of {len(trials)} have faults")

    run_program(program)


if __name__ == "__main__":
    start(main)
