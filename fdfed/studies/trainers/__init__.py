"""Methods that keep more at a site, or send more, than the deployed agent does; for comparison.

They are trained in one process on the deployment's own parts: the same batches, steps, optimiser,
scores and average. Without what is theirs they are the deployed federated averaging, to the bit.
"""

from fdfed.studies.trainers.create import TRAINER_NAMES, create_trainer
from fdfed.studies.trainers.loop import Trained, Trainer

__all__ = ["TRAINER_NAMES", "Trained", "Trainer", "create_trainer"]
