"""`rlaif judge`: the page on which people judge the pairs that wait for them."""

import shlex
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from storage.lake import Lake
    from tasks.human_desk import Desk


def judge(
    lake: Annotated[
        str | None, typer.Argument(help="Folder or s3://bucket/prefix; the newest of runs/ by default.")
    ] = None,
    arm: Annotated[str | None, typer.Option("--arm", help="Only this arm's pairs.")] = None,
    port: Annotated[int, typer.Option("--port", min=0, max=65535, help="Of the page; 0: a free one.")] = 0,
    who: Annotated[
        str | None, typer.Option("--who", help="Name that is kept with each answer; this system's user by default.")
    ] = None,
    again: Annotated[
        bool, typer.Option("--again", help="Ask again what nobody could tell; run.retries=1 then takes it in.")
    ] = False,
) -> None:
    """Shows, on a page on this machine, the pairs that wait for a person, and keeps what is said."""
    from flows import cli

    opened = cli._lake(lake)
    desk = _desk(opened, arm)
    if again:
        _say(f"{desk.ask_again(arm)} answers 'I cannot tell' are asked again.")
    if desk.left(arm).waiting:
        _serve(opened, desk, arm, port, _user() if who is None else who)
    _say(_where_it_stands(opened, desk, arm))


def _desk(lake: "Lake", arm: str | None) -> "Desk":
    """The lake's desk. Raises StageError when nothing was ever queued there."""
    from tasks.human_desk import Desk, desk_path
    from tasks.stage import StageError

    path = desk_path(lake.root)
    # To open a desk makes its file; to look for one must not.
    arms = Desk(path).arms() if path.exists() else []
    if not arms:
        raise StageError(
            f"Nothing waits for a person in {lake.root}: no arm there says `judge: human`. Give it to an arm of the "
            "preset and run that; when its answers are there, they wait here."
        )
    if arm is not None and arm not in arms:
        raise StageError(f"Nothing of arm {arm!r} waits for a person in {lake.root}; arms that do: {', '.join(arms)}.")
    return Desk(path)


def _serve(lake: "Lake", desk: "Desk", arm: str | None, port: int, who: str) -> None:
    """Serves the page until Ctrl-C."""
    from tasks.human_page import JudgingPage
    from tasks.human_server import JudgingServer
    from tasks.stage import StageError

    try:
        server = JudgingServer(JudgingPage(lake, desk, arm, who), port)
    except OSError as error:
        raise StageError(f"The page cannot be at port {port} ({error}); give another, or 0 for a free one.") from None
    with server:
        _say(f"{desk.left(arm).waiting} to answer: open {server.address}")
        _say("Each answer is kept at once; Ctrl-C ends.")
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            _say("")


def _where_it_stands(lake: "Lake", desk: "Desk", arm: str | None) -> str:
    left = desk.left(arm)
    if left.waiting:
        options = [] if arm is None else ["--arm", arm]
        return (
            f"{left.waiting} of {left.total} left: go on with `{shlex.join(['rlaif', 'judge', lake.root, *options])}`."
        )
    runs = ", ".join(desk.runs(arm))
    return f"Nothing is left, {left.said} answers are kept. Give the command again that made run {runs}: it goes on."


def _user() -> str:
    import getpass

    try:
        return getpass.getuser()
    except (KeyError, OSError, ImportError):
        return ""  # A container's user may have no name.


def _say(text: str) -> None:
    from flows import cli

    cli.out.print(text, markup=False, soft_wrap=True)
