"""Random numbers drawn once more, so that what is computed twice sees the same dropout."""

import torch


def set_seed(number: int, device: torch.device) -> None:
    """Set torch's random numbers on the CPU and on the device.

    As `torch.manual_seed` does, which writes down the whole stack for each kind of device that is not in use: a tenth
    of the time of a small cohort's epochs.
    """
    torch.default_generator.manual_seed(number)
    if device.type != "cpu":
        torch.manual_seed(number)


class Randomness:
    """Torch's random numbers of a moment, to be drawn once more."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._cpu = torch.get_rng_state()
        self._cuda = torch.cuda.get_rng_state(device) if device.type == "cuda" else None

    def replay(self) -> None:
        """Draw from here again."""
        torch.set_rng_state(self._cpu)
        if self._cuda is not None:
            torch.cuda.set_rng_state(self._cuda, self._device)
