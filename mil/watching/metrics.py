"""How far everything is, for Prometheus: its text format, as a file or served over HTTP."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

from mil.watching.status import Status
from wsi.errors import RequestError

TYPE = "text/plain; version=0.0.4; charset=utf-8"
_MIB = 2.0**20
Sample = tuple[Mapping[str, str], float]
"""Labels and value."""


def metrics_text(status: Status) -> str:
    """Return all metrics of a look, each with its help and type."""
    lines = []
    for (name, kind, meaning), samples in _metrics(status).items():
        if samples:
            lines += [f"# HELP {name} {meaning}", f"# TYPE {name} {kind}"]
            lines += [f"{name}{_labels({'cohort': status.name, **labels})} {value!r}" for labels, value in samples]
    return "\n".join(lines) + "\n"


def _metrics(status: Status) -> dict[tuple[str, str, str], list[Sample]]:
    items: list[Sample] = []
    rates: list[Sample] = []
    etas: list[Sample] = []
    for stage in status.stages:
        stuck = sum(work.stuck for work in stage.running)
        counts = {"done": stage.done, "waiting": stage.waiting, "failed": len(stage.failed), "stuck": stuck}
        counts["running"] = len(stage.running) - stuck
        items += [({"stage": stage.stage, "state": state}, float(count)) for state, count in counts.items()]
        if stage.rate:
            rates.append(({"stage": stage.stage, "unit": stage.unit}, stage.rate))
        if stage.eta_seconds is not None:
            etas.append(({"stage": stage.stage}, stage.eta_seconds))
    tally = status.tally
    return {
        ("gigamil_items", "gauge", "Slides, bags or experiments of a stage, by state."): items,
        ("gigamil_rate_per_second", "gauge", "What a stage does a second, in its unit (B: bytes)."): rates,
        ("gigamil_eta_seconds", "gauge", "How long a stage will still take, where it is known."): etas,
        ("gigamil_step_seconds_total", "counter", "Seconds that a stage spent on a step, over all processes."): [
            ({"stage": stage, "step": step}, seconds)
            for stage, steps in tally.spent.items()
            for step, seconds in steps.items()
        ],
        ("gigamil_read_bytes_total", "counter", "Bytes of the slides that a stage has finished."): [
            ({"stage": stage}, float(size)) for stage, size in tally.bytes_read.items()
        ],
        ("gigamil_gpu_use_ratio", "gauge", "How busy a GPU was lately."): _of_gpus(status, "use_percent", 0.01),
        ("gigamil_gpu_memory_used_bytes", "gauge", "Memory of a GPU in use."): _of_gpus(
            status, "memory_used_mib", _MIB
        ),
        ("gigamil_gpu_memory_bytes", "gauge", "Memory of a GPU."): _of_gpus(status, "memory_mib", _MIB),
        ("gigamil_queue_jobs", "gauge", "Jobs in Slurm's queue, by state."): _queue(status),
        ("gigamil_last_event_timestamp_seconds", "gauge", "When the event log was last written to."): (
            [({}, tally.last)] if tally.last else []
        ),
        ("gigamil_complete", "gauge", "1 where everything is done."): [({}, float(status.exit_code == 0))],
    }


def _of_gpus(status: Status, fact: str, factor: float) -> list[Sample]:
    return [
        ({"host": host, "gpu": str(index)}, float(gpu[fact]) * factor)
        for (host, index), gpu in status.tally.gpus.items()
        if isinstance(gpu.get(fact), int | float)
    ]


def _queue(status: Status) -> list[Sample]:
    counts: dict[tuple[str, str], int] = {}
    for job in status.queue:
        key = (str(job["stage"]), str(job["state"]).lower())
        counts[key] = counts.get(key, 0) + 1
    return [({"stage": stage, "state": state}, float(count)) for (stage, state), count in counts.items()]


def _labels(labels: Mapping[str, str]) -> str:
    return "{" + ",".join(f'{name}="{_escaped(value)}"' for name, value in labels.items()) + "}"


def _escaped(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


@contextmanager
def serving(host: str, port: int, text: Callable[[], str]) -> Iterator[str]:
    """Serve ``/metrics`` while the block runs; give its address.

    Raises
    ------
    RequestError
        The address cannot be listened on.
    """

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            found = self.path.partition("?")[0] == "/metrics"
            body = text().encode() if found else b"see /metrics\n"
            self.send_response(200 if found else 404)
            self.send_header("Content-Type", TYPE if found else "text/plain")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            """Stay silent: the terminal shows the status."""

    try:
        server = ThreadingHTTPServer((host, port), Handler)
    except (OSError, OverflowError) as error:
        why = getattr(error, "strerror", None) or error
        raise RequestError(f"--metrics {port}: {host} cannot be listened on ({why}): give another port, or 0") from None
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.1}, daemon=True)
    thread.start()
    try:
        yield f"http://{host}:{server.server_address[1]}/metrics"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
