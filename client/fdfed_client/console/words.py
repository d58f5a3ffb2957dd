"""The kinds of the audit log in words for a data protection officer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

OUT: Final[Mapping[str, str]] = {
    "prepared": "How many images this hospital has for training, validation and test.",
    "trained": "The network's weights after a round of training here, with average losses.",
    "masked": (
        "The same, hidden under masks that cancel only in the sum over all hospitals: the "
        "coordinator learns the sum."
    ),
    "is-ready": "A fresh public key for those masks, signed by this hospital.",
    "evaluated": (
        "Scores of the common model: number of images, mean, spread and quartiles. Never the score "
        "of one image, and none over fewer images than the hospital allows."
    ),
    "prototypes": (
        "Averages of network features over the images of a training step, turned by a secret that "
        "the coordinator does not have, and encrypted."
    ),
    "offered": "A secret for the other hospitals, encrypted so that only they can open it.",
    "in-force": "Which version of the list of members this hospital uses.",
    "failure": "That something could not be done, with a reason from a fixed list.",
    "joined": "That this agent is connected.",
    "left": "That this agent disconnects.",
}
"""What leaves."""

IN: Final[Mapping[str, str]] = {
    "prepare": "The plan of the run, and the question how many images there are for it.",
    "train": "The common weights, to be trained here for a round.",
    "evaluate": "The common weights, to be scored here.",
    "ready": "The question whether this hospital is ready for a masked round.",
    "secret": "The question for a fresh secret.",
    "roster": "A newer list of members, signed by the consortium.",
    "cotangents": "Answers to the averages: in which direction features should move.",
    "plan": "What this hospital decided about the plan of the run.",
}
"""What comes in."""

NEVER: Final = (
    "Images and masks",
    "Predictions and scores of single images",
    "Names of files and patients, and patient lists",
    "Private keys",
)
"""There is no kind of message for these."""


def words(direction: str, kind: str) -> str:
    """What a line of the log is about; its own word where there is no sentence for it."""
    return (OUT if direction == "out" else IN).get(kind, kind)
