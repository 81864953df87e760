"""Register tokens (Darcet et al. 2023, arXiv 2309.16588), as their authors save them and as timm wants them."""

from collections.abc import Mapping

from torch import Tensor

REGISTERS = "register_tokens"


def as_timm_adds_them(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the state dict with registers under timm's key; state dicts without registers as they are.

    The authors add a position to the class token, then put registers behind it, which have none. timm's models with
    registers add positions to patches alone: the class token's own is added to it here, once.
    """
    if REGISTERS not in state or "pos_embed" not in state or "cls_token" not in state:
        return dict(state)
    positions_1LD = state["pos_embed"]
    return {
        **{key: tensor for key, tensor in state.items() if key != REGISTERS},
        "reg_token": state[REGISTERS],
        "cls_token": state["cls_token"] + positions_1LD[:, :1],
        "pos_embed": positions_1LD[:, 1:],
    }
