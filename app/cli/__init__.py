"""`tunesmith …`: everything a person does at a shell."""

import logging
import sys

import typer

from app.cli import datasets, jobs, keys, projects, retention, service, usage
from app.cli.terminal import console, errors

__all__ = ["cli", "console", "errors", "main"]

cli = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    help="Fine-tuning jobs on your own machines.",
    pretty_exceptions_enable=False,
)
cli.add_typer(service.cli)
cli.add_typer(keys.cli, name="keys")
cli.add_typer(projects.cli, name="projects")
cli.add_typer(usage.cli)
cli.add_typer(retention.cli)
cli.add_typer(datasets.cli, name="datasets")
cli.add_typer(jobs.cli)


def main() -> None:
    """Run the command line. An error that the user can fix is explained in a few lines, with exit code 2."""
    logging.basicConfig(level=logging.WARNING)
    try:
        cli()
    except Exception as error:
        from app.explain import explain

        explanation = explain(error)
        if explanation is None:
            raise
        errors.print(explanation, soft_wrap=True)
        sys.exit(2)
