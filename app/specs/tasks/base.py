"""The description of a task: its options, and the rows that it can use.

Pure Python, so that submit and training give the same answers.
"""

from abc import abstractmethod
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, get_args

from app.specs.strict import Strict

Row = Mapping[str, Any]
Columns = Mapping[str, str]
"""Role to the name of its column."""
Fault = tuple[str, str]
"""The role at fault, and what is wrong with its cell; what to do about it follows "; "."""
Limits = Mapping[str, tuple[Any, ...]]
"""Path into the spec to the values that are supported there."""
Example = Mapping[str, Any]


@dataclass(frozen=True)
class Role:
    """The role of a column in a task, such as `text`."""

    name: str
    usual_names: tuple[str, ...] = ()
    """Names that public datasets use for such a column, most common first, in lower case."""
    is_required: bool = True
    is_answer: bool = False
    """Whether the model learns to predict it. Two rows are duplicates if all other cells are equal."""
    is_target: bool = False
    """Whether its cells are class names, or the numbers of a regression."""
    is_group: bool = False
    """Whether rows with equal cells belong together, such as the documents of one query."""


class TaskSpec(Strict):
    """One task. A subclass has a field `type`, its roles and metrics, and decides which rows are unusable."""

    type: Any
    known_roles: ClassVar[tuple[Role, ...]]
    engines: ClassVar[tuple[str, ...]] = ("trainer", "pytorch")
    """Engines that can train this task."""
    methods: ClassVar[tuple[str, ...]] = ("full", "lora", "qlora", "freeze")
    """Methods that this task can be trained with."""
    batchings: ClassVar[tuple[str, ...]] = ("length", "random")
    """Which rows can share a batch (`training.batching`). The first is the default."""
    streams: ClassVar[bool] = True
    """Whether train can be streamed. It cannot if every row is needed before the first step."""
    limits: ClassVar[Limits] = {}
    """The values that this task supports elsewhere in a spec. Fields that are not named support every value."""
    example: ClassVar[Example]
    """A body that POST /v1/jobs accepts as it is."""

    group_metrics: ClassVar[tuple[str, ...]] = ()
    """Metrics that compare the rows of a group. Each evaluated split needs a group in which the targets differ."""

    required_roles: ClassVar[tuple[str, ...]]
    optional_roles: ClassVar[tuple[str, ...]]
    group_role: ClassVar[str | None]
    """The role whose equal cells make rows a group. `eval_fraction` never divides a group."""

    @classmethod
    def __pydantic_init_subclass__(cls, **_: Any) -> None:
        """Derive the three views of the roles."""
        cls.required_roles = tuple(role.name for role in cls.known_roles if role.is_required)
        cls.optional_roles = tuple(role.name for role in cls.known_roles if not role.is_required)
        cls.group_role = next((role.name for role in cls.known_roles if role.is_group), None)

    @property
    def roles(self) -> tuple[str, ...]:
        """The required roles."""
        return self.required_roles

    @property
    def target_role(self) -> str | None:
        """The role, among `roles`, whose cells name classes, or hold the numbers of a regression."""
        return next((role.name for role in self.known_roles if role.is_target and role.name in self.roles), None)

    @property
    def has_negatives_in_batch(self) -> bool:
        """Whether the other rows of a batch are negative examples, so that the loss depends on them."""
        return "no_duplicates" in self.batchings

    @property
    def supported(self) -> Limits:
        """The limits of this spec."""
        return self.limits

    @property
    @abstractmethod
    def metrics(self) -> tuple[str, ...]:
        """The metrics that can evaluate this task; the usual ones come first."""

    @classmethod
    def all_metrics(cls) -> tuple[str, ...]:
        """The metrics of every problem of this task."""
        return cls.model_validate({"type": cls.name()}).metrics

    @classmethod
    def name(cls) -> str:
        """The value of `type`."""
        return get_args(cls.model_fields["type"].annotation)[0]

    @property
    def default_metrics(self) -> tuple[str, ...]:
        """The metrics computed if the spec names none; the first selects the best checkpoint. By default: all."""
        return self.metrics

    @property
    def has_classes(self) -> bool:
        """Whether the cells of the target role are class names."""
        return self.target_role is not None

    @property
    def class_names(self) -> Sequence[str] | None:
        """The classes that the spec names, in the order of their ids."""
        return None

    def read(self, cell: Any, names: Sequence[str] | None = None) -> Any:
        """A target cell with class names instead of ids. `names` are those of a hub dataset's own classes."""
        return cell

    def classes(self, cell: Any) -> Iterable[str]:
        """The class names in a valid target cell that was read."""
        return ()

    def learn(self, seen: Iterable[str]) -> list[str]:
        """The class names in the order of their ids, from those that occur in train."""
        return []

    def classes_fault(self, seen: Collection[str]) -> str | None:
        """Why nothing can be learned from train with these classes, or None."""
        return None

    def stratum(self, cell: Any) -> str | None:
        """The class by which a held-out fraction is stratified, if the task has one."""
        return None

    @abstractmethod
    def faults(self, row: Row, columns: Columns, known: Collection[str] | None) -> Iterator[Fault]:
        """Return what is wrong with a row whose target was read.

        `known` are the classes that may occur, or None if they are yet to be learned from train.
        """


def text_fault(cell: Any) -> str | None:
    """Return why a cell is not a text, or None."""
    if cell is None:
        return "no text"
    if not isinstance(cell, str):
        return f"text must be a string, this is {type(cell).__name__}"
    if not cell.strip():
        return "the text is empty"
    return None


def text_faults(row: Row, columns: Columns, *roles: str) -> Iterator[Fault]:
    """The faults of those of `roles` that have a column and no text."""
    for role in roles:
        if role in columns and (message := text_fault(row.get(columns[role]))):
            yield role, message
