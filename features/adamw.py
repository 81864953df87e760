"""AdamW that does not load what torch.compile needs: no step is compiled here, and loading it takes two seconds.

torch wraps an optimizer's methods so that a compiled program leaves them alone; the wrappers import `torch._dynamo`
when they are first called. What they wrap is used here as it stands.
"""

from inspect import unwrap

import torch

_PARENT = torch.optim.AdamW


class AdamW(_PARENT):
    """AdamW (arXiv 1711.05101) as `torch.optim.AdamW` computes it, to the last bit."""

    add_param_group = unwrap(_PARENT.add_param_group)
    load_state_dict = unwrap(_PARENT.load_state_dict)
    state_dict = unwrap(_PARENT.state_dict)
    zero_grad = unwrap(_PARENT.zero_grad)
    step = torch.no_grad()(unwrap(_PARENT.step))
