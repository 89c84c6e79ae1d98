"""What happens when a run fails or is cancelled: the lake hears of it.

Prefect calls hooks by keyword in some places, so their parameters are exactly (flow, flow_run, state).
"""

from typing import Any

from prefect import Flow, State
from prefect.client.schemas.objects import FlowRun

from flows.parameters import RunConfig
from flows.s3_block import s3_environment
from storage.lake import Lake, event


def log_failed(flow: Flow[..., Any], flow_run: FlowRun, state: State[Any]) -> None:
    """For `on_failure` and `on_crashed`."""
    _log("run_failed", flow, flow_run, state)


def log_cancelled(flow: Flow[..., Any], flow_run: FlowRun, state: State[Any]) -> None:
    """For `on_cancellation`; runs in the Prefect worker where that has ended the flow's process."""
    _log("run_cancelled", flow, flow_run, state)


def _log(name: str, flow: Flow[..., Any], flow_run: FlowRun, state: State[Any]) -> None:
    import json

    run = _run_config(flow, flow_run)
    detail = json.dumps({"flow_run": str(flow_run.id), "state": state.name, "message": state.message})
    with s3_environment(run.s3_block):
        Lake(run.lake_root).log([event(run.name, name, detail=detail)])


def _run_config(flow: Flow[..., Any], flow_run: FlowRun) -> RunConfig:
    """The section `run` of the run's parameters; the flow's default where the caller gave none."""
    import inspect

    given = (flow_run.parameters or {}).get("run", inspect.signature(flow.fn).parameters["run"].default)
    return RunConfig.model_validate(given if isinstance(given, dict) else given.model_dump())
