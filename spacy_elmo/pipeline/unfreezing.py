"""A callback that fine-tunes a biLM part by part, from the top down (Howard and Ruder 2018)."""

from collections.abc import Callable
from typing import Any, Literal

from spacy.language import Language

from spacy_elmo.errors import ElmoError
from spacy_elmo.pipeline.component import ElmoComponent


def gradual_unfreezing(
    upstream: str = "elmo", unit: Literal["epoch", "step"] = "epoch", start: int = 1, every: int = 1
) -> Callable[[Language, dict[str, Any]], None]:
    """Registered as `spacy-elmo.gradual_unfreezing.v1`, for `[training.before_update]`.

    The biLM is frozen at first. At `start`, the top LSTM layer joins the training, and with each further `every` the
    part below it, the character CNN last.

    upstream: name of the `elmo` component, which needs `frozen = false`; unit: what `start` and `every` count.

    Raises:
        ElmoError: a number is out of range. When it runs: there is no such component, or it has `frozen = true`.
    """
    if start < 0 or every < 1:
        raise ElmoError(f"gradual unfreezing: start is {start} and every is {every}, expected at least 0 and 1")

    def unfreeze(nlp: Language, progress: dict[str, Any]) -> None:
        component = nlp.get_pipe(upstream) if upstream in nlp.pipe_names else None
        if not isinstance(component, ElmoComponent):
            raise ElmoError(
                f"gradual unfreezing: the pipeline has no elmo component {upstream!r}; set upstream to its name"
            )
        done = progress[unit] - start
        component.unfreeze(0 if done < 0 else 1 + done // every)

    return unfreeze
