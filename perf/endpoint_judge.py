"""How much of the ideal throughput a judge behind an endpoint reaches: concurrency / latency calls a second.

    python -m perf.endpoint_judge [--latency-ms 50] [--concurrency 64] [--calls 20000] [--processes 2] [--least 0.9]

A server on the loopback answers every call after a fixed time; `server_ms` is what that came to, and what the ideal
counts by. What is measured is the judge as the stage uses it: prompts with two pictures, both orders, the official
client, and the ledger with a budget and its commits; calls count from the first to the last, once the connections
stand. Prints the share, and ends with 1 below the least (promised: 0.9). The cores that the judge needs must be free:
the official client takes most of cpu_ms_per_call.
"""

import argparse
import asyncio
import json
import multiprocessing
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from models.comparisons import Comparison
from models.endpoint import Endpoint
from models.endpoint_judge import SCHEMA, EndpointJudge
from models.endpoint_settings import JudgeEndpoint
from models.templates import shipped
from tasks.ledger import SqliteLedger

REPLY = {
    "choices": [{"finish_reason": "stop", "message": {"content": '{"verdict": "A", "reason": "it is right"}'}}],
    "usage": {"prompt_tokens": 900, "completion_tokens": 20},
}
PICTURES = (os.urandom(3000), os.urandom(3000))


class Slow(asyncio.Protocol):
    """The least HTTP/1.1 server: every request gets the same reply, `latency_s` after its last byte."""

    latency_s = 0.0
    took: Any  # Replies, and the seconds that they took in all: timers are late by up to a millisecond.
    body = json.dumps(REPLY).encode()
    reply = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(body) + body

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        self.missing = 0
        self.head = b""

    def data_received(self, data: bytes) -> None:
        if not self.missing:
            head, _, rest = (self.head + data).partition(b"\r\n\r\n")
            if len(head) == len(self.head + data):
                self.head += data
                return
            lengths = [line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")]
            self.head, self.missing, data = b"", int(lengths[0][15:]), rest
        self.missing -= len(data)
        if self.missing == 0:
            asyncio.get_running_loop().call_later(self.latency_s, self.answer, time.perf_counter())

    def answer(self, came: float) -> None:
        self.transport.write(self.reply)
        with self.took.get_lock():
            self.took[0] += 1
            self.took[1] += time.perf_counter() - came


def serve(port: Any, latency_s: float, took: Any) -> None:
    """Serves until it is ended; puts its port into the queue."""
    Slow.latency_s, Slow.took = latency_s, took

    async def run() -> None:
        server = await asyncio.get_running_loop().create_server(Slow, "127.0.0.1", 0, backlog=1024)
        port.put(server.sockets[0].getsockname()[1])
        await server.serve_forever()

    asyncio.run(run())


def judge_pairs(folder: str, url: str, number: int, calls: int, concurrency: int, ready: Any, took: Any) -> None:
    """One worker: warms up, waits for the others, judges calls / 2 pairs and reports when it began and ended."""
    settings = JudgeEndpoint(
        base_url=url, model="m", concurrency=concurrency, price_input=0.1, price_output=0.4, budget=1e6
    )
    endpoint = Endpoint(settings, SqliteLedger(Path(folder) / "ledger.sqlite", settings), None, SCHEMA, concurrency)
    judge = EndpointJudge(
        endpoint,
        text=shipped("judge_endpoint"),
        context_text=shipped("judge_endpoint_context"),
        again=shipped("judge_endpoint_again"),
    )
    judge.judge(pairs(f"warm {number}", concurrency))
    asked = pairs(f"{number}", calls // 2)
    ready.wait()
    began, cpu = time.time(), time.process_time()
    judge.judge(asked)
    took.put((began, time.time(), time.process_time() - cpu))
    judge.close()


def pairs(name: str, count: int) -> list[Comparison[Any]]:
    return [Comparison(f"what happens in {name} {i}?", PICTURES, "a dog runs.", "a cat sleeps.") for i in range(count)]


def measure(latency_ms: float, concurrency: int, calls: int, processes: int) -> dict[str, float]:
    """Calls a second, and their share of the ideal."""
    context = multiprocessing.get_context("spawn")
    port, took, ready = context.Queue(), context.Queue(), context.Barrier(processes)
    served = context.Array("d", 2)
    server = context.Process(target=serve, args=(port, latency_ms / 1000, served), daemon=True)
    server.start()
    url = f"http://127.0.0.1:{port.get()}/v1"
    with tempfile.TemporaryDirectory() as folder:
        share = (url, calls // processes, concurrency // processes, ready, took)
        workers = [
            context.Process(target=judge_pairs, args=(folder, share[0], number, *share[1:]))
            for number in range(processes)
        ]
        for worker in workers:
            worker.start()
        times = [took.get(timeout=600) for _ in workers]
        for worker in workers:
            worker.join()
    server.terminate()
    seconds = max(end for _, end, _ in times) - min(begin for begin, _, _ in times)
    done = calls // processes // 2 * 2 * processes
    latency_s = served[1] / served[0]
    ideal = concurrency // processes * processes / latency_s
    cpu = sum(cpu for *_, cpu in times)
    return {
        "calls_per_s": done / seconds,
        "server_ms": 1000 * latency_s,
        "ideal": ideal,
        "share": done / seconds / ideal,
        "cpu_ms_per_call": 1000 * cpu / done,
        "cores_used": cpu / seconds,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--latency-ms", type=float, default=50)
    parser.add_argument("--concurrency", type=int, default=64)
    parser.add_argument("--calls", type=int, default=20000)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--least", type=float, default=0.9)
    options = parser.parse_args()
    os.environ["NO_PROXY"] = "127.0.0.1"
    found = measure(options.latency_ms, options.concurrency, options.calls, options.processes)
    print(json.dumps({name: round(value, 3) for name, value in found.items()}, indent=2))
    sys.exit(found["share"] < options.least)


if __name__ == "__main__":
    main()
