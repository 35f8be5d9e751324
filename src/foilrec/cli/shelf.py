"""Commands about the parts on the shelf: list, show, check."""

import inspect
from typing import Annotated

import typer

from foilrec.errors import BadOption, NoSuchPart


def list_parts(
    family: Annotated[str, typer.Argument(help="backbones, samplers, losses, datasets or optimizers")] = "",
) -> None:
    """The parts of a family, a line each, and what they are; without a family, all of them as family/name."""
    from foilrec import parts

    found = {
        name if family else f"{kind}/{name}": parts.line(kind, name)
        for kind in ([parts.family(family)] if family else parts.FAMILIES)
        for name in parts.names(kind)
    }
    width = max(map(len, found))
    for name, what in found.items():
        typer.echo(f"{name:<{width}}  {what}")


def show(
    family: Annotated[str, typer.Argument(help="sampler, backbone, ..., or sampler/dns as `foilrec list` writes it")],
    name: Annotated[str, typer.Argument(help="a name that `foilrec list` shows, or module:Class")] = "",
) -> None:
    """What a part does: its docstring, its options with defaults, and the shapes it works on."""
    from foilrec import parts

    if not name:
        family, _, name = family.partition("/")
    if not name:
        found = [kind for kind in parts.FAMILIES if family in parts.names(kind)]
        if found:
            raise BadOption(f"{family} is a {found[0]}: `foilrec show {found[0]} {family}`.")
        kind = parts.family(family)
        raise BadOption(f"Which {kind}? `foilrec show {kind} NAME`, of {', '.join(parts.names(kind))}.")
    part = parts.find(family, name)
    typer.echo(f"{parts.family(family)} {name}\n\n{inspect.getdoc(part)}\n\nOptions:")
    for option in parts.options(part).values():
        typer.echo(f"  {option}")
    if not parts.options(part):
        typer.echo("  none")
    method = next((m for m in ("forward", "propagate", "read", "step") if m in vars(part)), None)
    if method and (doc := inspect.getdoc(getattr(part, method))):
        typer.echo(f"\n{method}{inspect.signature(getattr(part, method))}\n  {doc}")


def check(
    what: Annotated[str, typer.Argument(help="nothing for all, FAMILY, FAMILY/NAME, or module:Class")] = "",
) -> None:
    """Runs the contract checks on parts, yours or ours; exit code 1 if one fails."""
    from foilrec import contracts, parts

    failed = 0
    for kind, name in _wanted(what):
        problem = contracts.problem(kind, name)
        failed += problem is not None
        typer.echo(f"{'ok    ' if problem is None else 'BROKEN'} {kind}/{name}" + (f": {problem}" if problem else ""))
    if failed:
        raise typer.Exit(1)
    if not what:
        typer.echo(f"{sum(len(parts.names(kind)) for kind in parts.FAMILIES)} parts keep their contract.")


def _wanted(what: str) -> list[tuple[str, str]]:
    from foilrec import parts

    if ":" in what:
        return [(kind, what) for kind in parts.FAMILIES if _is(kind, what)] or [_none(what)]
    kind, _, name = what.partition("/")
    kinds = [parts.family(kind)] if kind else list(parts.FAMILIES)
    if name and name not in parts.names(kinds[0]):
        parts.find(kinds[0], name)  # says which there are
    return [(k, n) for k in kinds for n in ([name] if name else parts.names(k))]


def _is(kind: str, what: str) -> bool:
    from foilrec import parts

    try:
        return bool(parts.find(kind, what))
    except NoSuchPart as error:
        if f"is no {kind}:" in str(error):
            return False
        raise


def _none(what: str) -> tuple[str, str]:
    raise NoSuchPart(
        f"{what!r} is no part: derive it from Backbone, Sampler, Loss or Reader of foilrec.core, or from "
        "torch.optim.Optimizer."
    )
