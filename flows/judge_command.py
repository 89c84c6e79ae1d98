"""`rlaif judge`: the page on which people judge the pairs that wait for them."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from flows.lake_option import LakeArgument, S3Block, command, open_lake

if TYPE_CHECKING:
    from storage.lake import Lake
    from tasks.human_desk import Desk, Queue


def judge(
    lake: LakeArgument = None,
    arm: Annotated[str | None, typer.Option("--arm", help="Only this arm's pairs.")] = None,
    port: Annotated[int, typer.Option("--port", min=0, max=65535, help="Of the page; 0: a free one.")] = 0,
    who: Annotated[
        str | None, typer.Option("--who", help="Name that is kept with each answer; this system's user by default.")
    ] = None,
    again: Annotated[
        bool, typer.Option("--again", help="Ask again what nobody could tell; run.retries=1 then takes it in.")
    ] = False,
    drop: Annotated[
        str | None,
        typer.Option(
            "--drop",
            metavar="RUN",
            help="Show no page: take what this run asks for (with --arm, that arm of it) off the queue. Answers stay.",
        ),
    ] = None,
    s3_block: S3Block = None,
) -> None:
    """Shows, on a page on this machine, the pairs that wait for a person, and keeps what is said."""
    with open_lake(lake, s3_block) as opened:
        desk = _desk(opened, arm)
        if drop is not None:
            _drop(desk, drop, arm)
        if again:
            _say(f"{desk.ask_again(arm)} answers 'I cannot tell' are asked again.")
        if drop is None and desk.left(arm).waiting:
            _serve(opened, desk, arm, port, _user() if who is None else who)
        options = [] if arm is None else ["--arm", arm]
        _say(_where_it_stands(desk, arm, command("judge", opened.root, s3_block, *options)))


def _desk(lake: "Lake", arm: str | None) -> "Desk":
    """The lake's desk. Raises StageError when no run has a queue there."""
    from tasks.human_desk import Desk, desk_path
    from tasks.stage import StageError

    path = desk_path(lake.root)
    # To open a desk makes its file; to look for one must not.
    arms = Desk(path).arms() if path.exists() else []
    if not arms:
        raise StageError(
            f"Nothing waits for a person in {lake.root}: no run has a queue there. Give an arm of the preset "
            "`judge: human` and run that; when its answers are there, they wait here."
        )
    if arm is not None and arm not in arms:
        raise StageError(f"Nothing of arm {arm!r} waits for a person in {lake.root}; arms that do: {', '.join(arms)}.")
    return Desk(path)


def _drop(desk: "Desk", run: str, arm: str | None) -> None:
    """Takes a run off the desk. Raises StageError when it has no queue there."""
    from tasks.stage import StageError

    queues = desk.queues(arm)
    if run not in {each.run for each in queues}:
        raise StageError(f"Run {run!r} has no queue here. There are: {_listed(queues)}.")
    desk.drop(run, arm)
    gone = _listed([each for each in queues if each.run == run])
    _say(f"Off the queue ({gone}). Answers are kept; that run's command, given again, queues again.")


def _listed(queues: Sequence["Queue"]) -> str:
    return "; ".join(map(str, queues))


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
        waiting = [each for each in desk.queues(arm) if each.waiting]
        _say(f"{desk.left(arm).waiting} to answer ({_listed(waiting)}): open {server.address}")
        _say("Each answer is kept at once; Ctrl-C ends.")
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            _say("")


def _where_it_stands(desk: "Desk", arm: str | None, again: str) -> str:
    """What is left, and what to do next; `again` is this command."""
    left, runs = desk.left(arm), ", ".join(desk.runs(arm))
    if left.waiting:
        return f"{left.waiting} of {left.total} left: go on with `{again}`."
    if not runs:
        return "No queue is left; all answers are kept."
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
