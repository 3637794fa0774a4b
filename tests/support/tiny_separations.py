"""Settings of the smallest separations that have all parts."""

from figureground.disentangling.separator import SEPARATORS

FOREGROUNDS, BACKGROUNDS = ("car", "mug"), ("grass", "night")
SPLITS = {"train": 8, "validation": 6, "test": 4}
TINY = {"max_train_steps": 6, "batch_size": 8, "critic_steps": 2, "critic_hidden": 8, "hidden": 8, "label_steps": 2}
"""Settings of the smallest training that has all parts; `tiny` leaves out those that a method doesn't use."""


def tiny(method, **changes):
    """The settings of `TINY` that a method uses."""
    own = SEPARATORS[method].OWN
    kept = {name: value for name, value in TINY.items() if name in own or name in ("max_train_steps", "batch_size")}
    return {**kept, **changes}
