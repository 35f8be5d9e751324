"""From an item to its negatives: analyse once, then intervene and generate for each, every answer judged."""

from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from foilrec.content import gates, templates
from foilrec.content.backends.rules import Rules
from foilrec.content.desk import Desk
from foilrec.content.encoder import Array, Encoder
from foilrec.content.gates import Fault, Gates, Measured
from foilrec.content.goods import Goods, Item, clean
from foilrec.content.lexicons import WordLists
from foilrec.content.schema import first_object, problems
from foilrec.content.store import Job, Outcome
from foilrec.content.templates import Prompt
from foilrec.errors import ModelFailed
from foilrec.numerics import streams

LONGEST = 1000  # characters of any text in an answer
SILENT = "analyse: no known value"  # the gate of items whose text says nothing that the word lists know
Answer = Mapping[str, Any]


class Dropped(Exception):
    """An answer that did not pass twice: at which question, and by which gate."""

    def __init__(self, template: str, fault: Fault) -> None:
        super().__init__(fault.told)
        self.gate = f"{template.split('/')[0]}: {fault.gate}"


@dataclass(frozen=True)
class Helper:
    """Rules that answer in a model's place: all but the choice of edits if it only `chooses`, and every question on
    items that it is not `asked` about (None: about all).
    """

    rules: Rules
    chooses: bool = False
    asked: Container[int] | None = None

    def answers(self, question: str, item: int) -> bool:
        """Whether a question on an item goes to the rules."""
        elsewhere = self.asked is not None and item not in self.asked
        return elsewhere or (self.chooses and question != "intervene")

    def answer(self, prompt: Prompt, seed: int) -> str:
        """What the rules say."""
        return self.rules.complete(prompt.messages, prompt.schema, prompt.max_tokens, 0.0, seed).text


@dataclass
class Pipeline:
    """Makes the negatives of an item, one after the other.

    lists: word lists, and values: of these, what new values may be. bound: the model, too, is held to them; rules are
    anyway. helper: answers for the model. encoder and gates judge what is made.
    """

    goods: Goods
    desk: Desk
    encoder: Encoder
    gates: Gates
    seed: int = 0
    lists: WordLists | None = None
    values: Mapping[str, Sequence[str]] = field(default_factory=dict)
    bound: bool = False
    helper: Helper | None = None
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
        lists = self._lists(item.number)
        known = None if lists is None else lists.found(". ".join([item.text, *item.words.values()]))
        if lists is not None and not known:
            raise Dropped("analyse", Fault("no known value", f"it says no value of the word lists {lists.name}"))
        sees = self.desk.backend.sees and not self._helper("analyse", item.number)
        prompt = templates.analyse(item, sees=sees, found=known)
        names = (item.number,)
        answer = self._settled(prompt, names, lambda given: gates.analysed(item, gates.tidied(item, given)))
        return gates.tidied(item, answer)

    def _negative(self, item: Item, analysis: Answer, job: Job) -> dict[str, Any]:
        if not templates.editable(item, analysis, job.difficulty):
            told = f"too few key attributes to change {job.difficulty} so that every modality shows it"
            raise Dropped("intervene", Fault("too few", told))
        taste = [] if job.user < 0 else self.goods.taste(job.user, item.number, self.seed)
        prompt = templates.intervene(item, analysis, job.difficulty, taste, values=self._free(item, analysis))
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
            "by": "rules" if self._helper("intervene", job.item) else self.desk.told_by or self.desk.backend.name,
            "edits": plan["edits"],
            "title": answer["text"].get("title", ""),
            "description": answer["text"].get("description", ""),
            "captions": {m: captions[m] for m in item.modalities[1:]},
            "captions_before": analysis["captions"],
            "cosines": made[-1].cosines,
            "nearest": made[-1].nearest,
        }

    def _lists(self, number: int) -> WordLists | None:
        """The word lists that an item is held to."""
        return self.lists if self.bound or self._helper("analyse", number) else None

    def _helper(self, question: str, number: int) -> Helper | None:
        """Who answers in the model's place, if anybody does."""
        return self.helper if self.helper is not None and self.helper.answers(question, number) else None

    def _free(self, item: Item, analysis: Answer) -> Mapping[str, Sequence[str]]:
        """The new values that an item may take: those that nothing says of it so far."""
        said = ". ".join(gates.of_item(item, analysis).values())
        values = self.values if self._lists(item.number) else {}
        return {name: [v for v in of if not gates.said(v, said)] for name, of in values.items()}

    def _measured(self, item: Item, analysis: Answer, answer: Answer, job: Job) -> Measured:
        company = self.goods.company(item.number, None if job.user < 0 else job.user)
        new = [other for other in company if other not in self._rows]
        self._rows.update(zip(new, self.encoder([self.goods.text(other) for other in new]), strict=True))
        others = [self._rows[other] for other in company]
        before, after = gates.of_item(item, analysis), gates.of_answer(answer)
        return gates.measured(before, after, self.encoder, self.gates, others)

    def _settled(self, prompt: Prompt, names: Sequence[int], judge: Callable[[Answer], list[Fault]]) -> Answer:
        """An answer that passes, the first or, with the errors of the first quoted, the second.

        names: of the seed, the item's number first.
        """
        helper = self._helper(prompt.template.split("/")[0], names[0])
        asked, faults = prompt, list[Fault]()
        for attempt in range(2):
            seed = streams.key(self.seed, "ask", prompt.template, *names, attempt) % 2**31
            text = helper.answer(asked, seed) if helper else self.desk.ask(asked, seed)
            answer, faults = _read(text, prompt)
            faults = faults or judge(answer)
            if helper is None:
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
