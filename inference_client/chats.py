"""How a language model is talked to, by what it says it takes and gives. Pure; no I/O.

Known by name are the inputs and outputs of TensorRT-LLM's models, old and current; of others, the only text that must
be given is the prompt and the only text that comes back the answer.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from inference_client.results import Batch, Inference, Model, TensorSpec, WithTensors
from inference_client.tensors import BYTES, InputValue

MARKER = "<image>"
"""What stands in a prompt for a picture, where its placeholders are to be put."""
_PROMPTS = ("text_input", "prompt", "TEXT_PREFIX", "QUERY")
_ANSWERS = ("text_output", "TRANSCRIPTS")
_STREAMS = ("streaming", "stream")
# What TensorRT-LLM's current model puts before the names of sampling parameters.
_SAMPLING = "sampling_param_"


@dataclass(frozen=True, slots=True)
class Chat:
    """How one model is talked to: the inputs that have the prompt and say that tokens are to be streamed (None: it has
    none), the output that has the text, and all inputs by name.
    """

    model: str
    prompt: str
    answer: str
    stream: str | None
    decoupled: bool
    inputs: Mapping[str, TensorSpec]

    def given(
        self, prompt: str, sampling: Mapping[str, InputValue], *, stream: bool
    ) -> dict[str, InputValue]:
        """The inputs of a turn. Raises ValueError for a parameter that the model does not take."""
        found: dict[str, InputValue] = {self.prompt: prompt}
        if self.stream is not None:
            found[self.stream] = stream and self.decoupled
        for name, value in sampling.items():
            taken = next((each for each in (name, _SAMPLING + name) if each in self.inputs), None)
            if taken is None:
                known = ", ".join(each.removeprefix(_SAMPLING) for each in self.inputs if each not in found)
                raise ValueError(f"model {self.model!r} takes no {name!r}; it takes: {known or 'nothing'}")
            found[taken] = value
        return found

    def text(self, outputs: WithTensors) -> str:
        """The text in a response; empty where it has none."""
        if self.answer not in outputs.tensors:
            return ""
        return "".join(each.decode(errors="replace") for each in outputs.tensor(self.answer).reshape(-1))

    def texts(self, answer: Inference | Batch[Inference]) -> str:
        """The text in an answer that came at once. Raises the first item's problem that there is."""
        if not isinstance(answer, Batch):
            return self.text(answer)
        return "".join(map(self.text, (answer.raise_for_problem(), *answer)))


def chat_of(model: Model) -> Chat:
    """How this model is talked to. Raises ValueError where that cannot be told from what it takes and gives."""
    texts = [spec.name for spec in model.inputs if spec.data_type == BYTES]
    needed = [spec.name for spec in model.inputs if spec.data_type == BYTES and not spec.optional]
    answers = [spec.name for spec in model.outputs if spec.data_type == BYTES]
    names = {spec.name for spec in model.inputs}
    return Chat(
        model=model.name,
        prompt=_only(model, "input", _PROMPTS, texts, needed),
        answer=_only(model, "output", _ANSWERS, answers, answers),
        stream=next((name for name in _STREAMS if name in names), None),
        decoupled=model.decoupled,
        inputs={spec.name: spec for spec in model.inputs},
    )


def _only(
    model: Model, what: str, known: Sequence[str], there: Sequence[str], candidates: Sequence[str]
) -> str:
    for name in known:
        if name in there:
            return name
    if len(candidates) == 1:
        return candidates[0]
    listed = ", ".join(there) or "none"
    raise ValueError(
        f"model {model.name!r} cannot be talked to: which {what} has the text is not clear (of text it has: {listed}); "
        "use infer or infer_stream and name it"
    )


def expanded(prompt: str, marker: str, placeholder: str, counts: Sequence[int | None]) -> str:
    """The prompt with each marker replaced by as many placeholders as its item takes.

    Raises ValueError where there are not as many markers as items, or a count is not known.
    """
    parts = prompt.split(marker)
    if len(parts) != len(counts) + 1:
        raise ValueError(
            f"the prompt has {len(parts) - 1} of {marker!r} for {len(counts)} media items: put one where each belongs"
        )
    if None in counts:
        raise ValueError(
            "the model's recipe does not tell how many placeholders its media takes: write them out"
        )
    found = parts[0]
    for count, part in zip(counts, parts[1:], strict=True):
        found += placeholder * (count or 0) + part
    return found
