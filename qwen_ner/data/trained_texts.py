"""The texts that a model was trained on, as digests in its folder, so that a score on them can be told from others.

In: examples, the folder of a model. Out: a file of eight bytes a row, and which of other examples have a text of it. It
is not pushed to the Hub: who has a text could find out that it was trained on.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ..entities import Example, NerError
from ..files import beside
from .analysis.duplicates import digests

if TYPE_CHECKING:
    import numpy as np

TRAINED_TEXTS = "trained_texts.npy"


def save_trained_texts(folder: Path, examples: Sequence[Example]) -> None:
    import numpy as np

    with beside(folder / TRAINED_TEXTS) as part, part.open("wb") as file:
        np.save(file, np.unique(digests(examples)))


def load_trained_texts(folder: Path) -> np.ndarray | None:
    """The digests in the folder of a model, or in the one that a checkpoint is in; None if there are none.

    Raises `NerError` if they cannot be read.
    """
    import numpy as np

    folders = [folder, folder.parent] if folder.name.startswith("checkpoint-") else [folder]
    path = next((path for place in folders if (path := place / TRAINED_TEXTS).is_file()), None)
    try:
        return None if path is None else np.asarray(np.load(path, allow_pickle=False), np.uint64)
    except (ValueError, EOFError) as error:
        remedy = "remove it; then no score says how many of its rows were trained on"
        raise NerError(f"cannot be read ({error})", place=path, remedy=remedy) from None


def trained_on(examples: Sequence[Example], trained: np.ndarray) -> tuple[np.ndarray, bool]:
    """Which of `examples` have a text that was trained on, and whether they are the data of the training: most were.

    Texts are equal that differ in punctuation, width and case only. The others of the training's data were held out.
    """
    import numpy as np

    found = digests(examples)
    seen = np.isin(found, trained)
    return seen, 2 * max(seen.mean(), np.isin(trained, found).mean()) > 1
