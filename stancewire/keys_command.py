"""`stancewire keys`: keys of the service's callers."""

from enum import StrEnum
from typing import Annotated

import typer

keys_app = typer.Typer(no_args_is_help=True, help="Make keys for the callers of the service.")


class Scope(StrEnum):
    """What a key may do."""

    CLASSIFY = "classify"
    LABEL = "label"
    ADMIN = "admin"


@keys_app.command()
def new(
    name: Annotated[str, typer.Argument(help="who is to be known by it")],
    scope: Annotated[list[Scope], typer.Option(help="what it may do; may be repeated")],
    per_minute: Annotated[int, typer.Option(min=0, help="requests a minute; 0 any number")] = 0,
) -> None:
    """Make a key: it is shown once; its entry goes into the file that `api_keys_file` names."""
    from service.auth import new_key

    key, entry = new_key(name, tuple(each.value for each in scope), per_minute)
    typer.echo(f"key (shown only now): {key}\n\nadd to the file of keys:\n\nkeys:\n{entry}", nl=False)


@keys_app.callback()
def _group() -> None:
    """Keep `new` a sub-command."""
