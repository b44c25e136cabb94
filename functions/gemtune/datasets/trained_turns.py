"""Choice of the turns that the model learns."""

from __future__ import annotations

from typing import Literal

from gemtune.datasets.conversation import Conversation
from gemtune.datasets.refusal import BadRow

TrainOn = Literal["all_assistant_turns", "last_turn", "weights"]


def trained_turns(conversation: Conversation, train_on: TrainOn) -> frozenset[int]:
    """Return the indices of the turns to learn, which are the assistant's.

    A turn that its row says not to learn is never among them. `all_assistant_turns`: every other one. `last_turn`: the
    last one. `weights`: only those that the row says to learn. Raises BadRow if there are none.
    """
    own = [index for index, turn in enumerate(conversation.turns) if turn.role == "assistant"]
    if train_on == "last_turn":
        own = own[-1:]
    if train_on == "weights":
        chosen = frozenset(index for index in own if conversation.turns[index].trained)
        reason = "no turn of the assistant has weight 1, and train_on is weights"
    else:
        chosen = frozenset(index for index in own if conversation.turns[index].trained is not False)
        reason = f"weight is 0 in {'the last turn' if train_on == 'last_turn' else 'every turn'} of the assistant"
    if not chosen:
        raise BadRow(f"nothing in it is trained: {reason}")
    return chosen
