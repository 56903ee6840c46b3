"""The command line: planning, measuring, running and comparing from a terminal; ``dora-nb --help`` lists what there is.

People read what goes to standard output; with ``--json`` that is one JSON object and nothing else, while progress
goes to standard error. Whatever goes wrong ends in one message and a non-zero exit status.
"""

from __future__ import annotations

import typer

from dora_nb.cli.exporting import export
from dora_nb.cli.failures import tidy
from dora_nb.cli.measuring import probe, profile
from dora_nb.cli.planning import compose, explain, plan, share
from dora_nb.cli.results import compare, doctor, reproduce
from dora_nb.cli.running import demo, execute, worker
from dora_nb.cli.serving import serve
from dora_nb.cli.sweeping import report, sweep

app = typer.Typer(
    name="dora-nb",
    help=(
        "Plan how a neural network is split over unlike devices that share a network, and run the plan.\n\n"
        "Start with 'dora-nb demo'. Then: 'dora-nb plan' for your own question, 'dora-nb execute' for its plan file, "
        "'dora-nb doctor' if something is missing."
    ),
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

# In the order of the help.
for command in (
    demo,
    plan,
    share,
    serve,
    compose,
    explain,
    profile,
    probe,
    execute,
    worker,
    compare,
    export,
    reproduce,
    sweep,
    report,
    doctor,
):
    app.command()(tidy(command))


def main() -> None:
    """Run the command line."""
    app()
