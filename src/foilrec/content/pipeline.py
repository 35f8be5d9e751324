"""From an item to its negatives: analyse once, then intervene and generate for each, every answer judged."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from foilrec.content import gates, templates
from foilrec.content.desk import Desk
from foilrec.content.encoder import Array, Encoder
from foilrec.content.gates import Fault, Gates, Measured
from foilrec.content.goods import Goods, Item, clean
from foilrec.content.lexicons import found
from foilrec.content.schema import first_object, problems
from foilrec.content.store import Job, Outcome
from foilrec.content.templates import Prompt
from foilrec.errors import ModelFailed
from foilrec.numerics import streams

LONGEST = 1000  # characters of any text in an answer
Answer = Mapping[str, Any]


class Dropped(Exception):
    """An answer that did not pass twice: at which question, and by which gate."""

    def __init__(self, template: str, fault: Fault) -> None:
        super().__init__(fault.told)
        self.gate = f"{template.split('/')[0]}: {fault.gate}"


@dataclass
class Pipeline:
    """Makes the negatives of an item, one after the other.

    values: {attribute: new values} that a model may choose from, attributes being those of the word lists; None: any.
    encoder and gates judge what is made.
    """

    goods: Goods
    desk: Desk
    encoder: Encoder
    gates: Gates
    seed: int = 0
    values: Mapping[str, Sequence[str]] | None = None
    _rows: dict[int, Array] = field(default_factory=dict, init=False)

    def outcomes(self, number: int, jobs: Sequence[Job]) -> Iterator[Outcome]:
        """What comes of each job of an item. BudgetSpent and errors that concern every question are raised."""
        item = self.goods[number]
        try:
            analysis = self._analysed(item)
        except (Dropped, ModelFailed) as error:
            yield from (_ended(job, error) for job in jobs)
            return
        for job in jobs:
            try:
                yield Outcome(job, "done", content=self._negative(item, analysis, job))
            except (Dropped, ModelFailed) as error:
                yield _ended(job, error)

    def _analysed(self, item: Item) -> Answer:
        known = None if self.values is None else found(". ".join([item.text, *item.words.values()]))
        prompt = templates.analyse(item, sees=self.desk.backend.sees, found=known)
        answer = self._settled(prompt, (item.number,), lambda given: gates.analysed(item, gates.tidied(item, given)))
        return gates.tidied(item, answer)

    def _negative(self, item: Item, analysis: Answer, job: Job) -> dict[str, Any]:
        if not templates.editable(item, analysis, job.difficulty):
            told = f"too few key attributes to change {job.difficulty} so that every modality shows it"
            raise Dropped("intervene", Fault("too few", told))
        taste = [] if job.user < 0 else self.goods.taste(job.user, item.number, self.seed)
        prompt = templates.intervene(item, analysis, job.difficulty, taste, values=self.values)
        plan = self._settled(prompt, job, lambda answer: gates.planned(item, analysis, answer))
        made: list[Measured] = []

        def judge(answer: Answer) -> list[Fault]:
            faults = gates.generated(item, analysis, plan, answer)
            if not faults:
                made.append(self._measured(item, analysis, answer, job))
            return faults or made[-1].faults

        answer = self._settled(templates.generate(item, analysis, plan), job, judge)
        captions = gates.of_answer(answer)
        return {
            "edits": plan["edits"],
            "title": answer["text"].get("title", ""),
            "description": answer["text"].get("description", ""),
            "captions": {m: captions[m] for m in item.modalities[1:]},
            "captions_before": analysis["captions"],
            "cosines": made[-1].cosines,
            "nearest": made[-1].nearest,
        }

    def _measured(self, item: Item, analysis: Answer, answer: Answer, job: Job) -> Measured:
        company = self.goods.company(item.number, None if job.user < 0 else job.user)
        new = [other for other in company if other not in self._rows]
        self._rows.update(zip(new, self.encoder([self.goods.text(other) for other in new]), strict=True))
        others = [self._rows[other] for other in company]
        before, after = gates.of_item(item, analysis), gates.of_answer(answer)
        return gates.measured(before, after, self.encoder, self.gates, others)

    def _settled(self, prompt: Prompt, names: Sequence[object], judge: Callable[[Answer], list[Fault]]) -> Answer:
        """An answer that passes, the first or, with the errors of the first quoted, the second."""
        asked, faults = prompt, list[Fault]()
        for attempt in range(2):
            seed = streams.key(self.seed, "ask", prompt.template, *names, attempt) % 2**31
            text = self.desk.ask(asked, seed)
            answer, faults = _read(text, prompt)
            faults = faults or judge(answer)
            self.desk.store.judged(self.desk.key(asked, seed), [fault.told for fault in faults])
            if not faults:
                return answer
            asked = prompt.again(text, [fault.told for fault in faults])
        raise Dropped(prompt.template, faults[0])


def _read(text: str, prompt: Prompt) -> tuple[Answer, list[Fault]]:
    answer = _tidy(first_object(text))
    if answer is None:
        return {}, [Fault("schema", "the answer holds no whole JSON object")]
    return answer, [Fault("schema", told) for told in problems(answer, prompt.schema)]


def _tidy(value: Any) -> Any:
    """The same with every text clean: what a model wrote goes into questions and files."""
    if isinstance(value, str):
        return clean(value, LONGEST)
    if isinstance(value, list):
        return [_tidy(entry) for entry in value]
    return {key: _tidy(member) for key, member in value.items()} if isinstance(value, dict) else value


def _ended(job: Job, error: Dropped | ModelFailed) -> Outcome:
    """A drop is a rejection; a failure can be made good later, unless it concerns every question."""
    if isinstance(error, Dropped):
        return Outcome(job, "rejected", error.gate, str(error))
    if error.everywhere:
        raise error
    return Outcome(job, "failed", None, str(error))
