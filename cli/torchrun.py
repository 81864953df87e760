"""`python -m cli.torchrun [torchrun's options] VERB ...`: torchrun, and the verb's own exit code at its end.

To torchrun every rank that does not end with 0 has crashed: it ends the others, tells a traceback, and starts all anew
where it may. A verb that names slides that failed (1), refuses a request (2) or has saved and leaves (75) has not
crashed. Here its ranks leave that code in a file and end with 0. SIGUSR1 and SIGUSR2 are passed on to the ranks, which
may take their time; torchrun itself would end them after 30 seconds. torchrun waits five minutes at the end for a node
that is gone; what it says of that is no error's traceback here. A node that dies while the nodes meet would end
torchrun on all others with a traceback: they meet anew, as often as --max-restarts says.
"""

import logging
import os
import signal
import sys
import tempfile
import threading
from argparse import Namespace
from contextlib import suppress
from pathlib import Path

from cli.stopping import CODES
from wsi.machine.interrupt import PASSED_ON, SAVE_SIGNALS


def _pass_on() -> None:
    """Hand the signals to save to the ranks: the processes that this one started."""
    import psutil

    while True:
        signal.sigwait(SAVE_SIGNALS)
        for child in psutil.Process().children():
            with suppress(psutil.NoSuchProcess):
                child.send_signal(PASSED_ON)


def code_of(codes: Path, crashed: bool) -> int:
    """Return the job's code: that of a refusal, else of what is saved, else of failures; 1 where a rank crashed."""
    left = {int(path.name.partition("-")[0]) for path in codes.iterdir()}
    if crashed and 2 not in left:
        return 1
    return next((code for code in (2, 75, 1) if code in left), 0)


def _in_one_line(record: logging.LogRecord) -> bool:
    """Let torchrun's agent tell what happened without a traceback."""
    record.exc_info = None
    return True


def _meet_and_run(told: Namespace) -> bool:
    """Run the ranks; False where the nodes could not meet."""
    from torch.distributed import DistError
    from torch.distributed.elastic.rendezvous.api import RendezvousError
    from torch.distributed.run import run

    for left in range(told.max_restarts, -1, -1):
        try:
            run(told)
            return True
        except (DistError, RendezvousError) as error:
            what = "meeting anew" if left else "run the same command again; --max-restarts N lets the nodes meet anew"
            first = (str(error).splitlines() or [""])[0]
            sys.stderr.write(f"gigamil: a node was lost while the nodes met ({first}): {what}\n")
    return False


def main() -> None:
    """Run torchrun in this process."""
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.run import parse_args

    logging.getLogger("torch.distributed.elastic.agent.server.api").addFilter(_in_one_line)
    signal.pthread_sigmask(signal.SIG_BLOCK, SAVE_SIGNALS)  # in the ranks, too, until they can answer
    threading.Thread(target=_pass_on, daemon=True).start()
    told = parse_args(sys.argv[1:])
    told.training_script_args = [told.training_script, *told.training_script_args]
    told.module, told.training_script = True, "cli"
    if ":" in told.nnodes:  # a store that torchrun shares with its ranks is announced at the first meeting alone: nodes
        os.environ.setdefault("TORCH_DISABLE_SHARE_RDZV_TCP_STORE", "1")  # that join wait for it in vain
    crashed = False
    with tempfile.TemporaryDirectory(prefix="gigamil-codes-") as codes:
        os.environ[CODES] = codes
        try:
            crashed = not _meet_and_run(told)
        except ChildFailedError as error:
            crashed = True
            rank, failure = error.get_first_failure()
            sys.stderr.write(
                f"gigamil: rank {rank} ended with {failure.exitcode} (a negative number is a signal's): run the same "
                "command again; --max-restarts N lets torchrun do so\n"
            )
        code = code_of(Path(codes), crashed)
    sys.exit(code)


if __name__ == "__main__":
    main()
