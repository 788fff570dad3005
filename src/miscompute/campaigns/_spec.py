"""The spec of a campaign: a TOML file, checked, every message with the path of what is wrong."""

import itertools
import json
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from .._invalid import InvalidInput
from ..hardware import ARRAYS
from ._plan import PLANS, plan_of

_T = TypeVar("_T")


def _listed(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value if isinstance(value, tuple) else (value,)


# A value, or several: then the campaign has a setting for each.
_Several = Annotated[tuple[_T, ...], BeforeValidator(_listed), Field(min_length=1)]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class TaskSpec(_Section):
    """What is trained: a data set's recipe, with changes. A list gives a setting for each of its values."""

    data: _Several[str] = Field(default=("cluttered_digits",), description="The data set.")
    model: _Several[str] | None = Field(default=None, description="Default: the recipe's.")
    width: _Several[float] | None = Field(default=None, description="Scales hidden channels.")
    optimizer: _Several[str] | None = Field(default=None, description="adam, adamw or sgd.")
    lr: _Several[float] | None = Field(default=None, description="Highest learning rate.")
    momentum: _Several[float] | None = Field(default=None, description="Of sgd.")
    weight_decay: _Several[float] | None = None
    schedule: _Several[str] | None = Field(default=None, description="constant, cosine or one-cycle.")
    batch_size: _Several[int] | None = Field(default=None, description="Images, or windows of text, a step.")
    steps: _Several[int] | None = Field(default=None, description="Optimizer steps.")
    evaluate_every: _Several[int] | None = Field(default=None, description="Steps between evaluations.")
    validation_examples: _Several[int] | None = Field(
        default=None, description="How many evaluations take; default: all."
    )
    seed: _Several[int] | None = Field(default=None, description="Decides weights, order and augmentation.")


class ArraySpec(_Section):
    """What it is trained on. A list gives a setting for each of its values."""

    name: _Several[str] = Field(default=("nvdla-small",), description=f"Such as {', '.join(list(ARRAYS)[:3])}.")
    format: _Several[str] | None = Field(
        default=None, description="What operands are rounded to; default: the model's."
    )
    grad_weight: _Several[str] | None = Field(default=None, description="A or B, of NVDLA's core.")
    swizzle: _Several[str] | None = Field(default=None, description="none, step, stripe, layer, random.")
    image_mode: _Several[str] | None = Field(default=None, description="none or first, of NVDLA's core.")


class Spec(_Section):
    """A campaign: a population of faults, under one setting or several, and which of them are tried."""

    name: str = Field(description="What the campaign is called.", pattern=r"^[A-Za-z0-9][A-Za-z0-9._ -]*$")
    about: str = Field(default="", description="What it asks.")
    faults: _Several[str] = Field(description="Fault strings with choices, such as 'weight[*,*] bit 0..31 flip'.")
    plan: dict[str, Any] = Field(
        description=f"Which of the population to try: kind ({', '.join(PLANS)}) and the kind's own words."
    )
    seed: int = Field(default=0, ge=0, description="Decides which faults the plan draws.")
    golden_seeds: int = Field(default=5, ge=2, description="How many fault-free runs a setting has.")
    task: TaskSpec = TaskSpec()
    array: ArraySpec = ArraySpec()

    def words(self) -> dict[str, Any]:
        """Give the spec as plain values, without what was left out; `spec_of` makes an equal one of them."""
        return self.model_dump(mode="json", exclude_unset=True)

    def toml(self) -> str:
        """Spell the spec as the file that `load_spec` reads."""
        words = self.words()
        tables = [name for name in ("task", "array") if name in words]
        lines = [f"{name} = {_toml(value)}" for name, value in words.items() if name not in tables]
        for table in tables:
            lines += ["", f"[{table}]", *(f"{name} = {_toml(value)}" for name, value in words[table].items())]
        return "\n".join(lines) + "\n"


def _toml(value: Any) -> str:
    """Spell a plain value as TOML: what is in a table, a list or a single value is in one line."""
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{json.dumps(name)} = {_toml(item)}" for name, item in value.items()) + " }"
    if isinstance(value, list):
        return "[" + ", ".join(map(_toml, value)) + "]"
    return json.dumps(value, ensure_ascii=False)


def spec_of(words: Mapping[str, Any], *, source: str = "spec") -> Spec:
    """Make a spec of plain values.

    Raises:
        InvalidInput: naming the place of the first mistake, as ``task.lr``.
    """
    try:
        spec = Spec.model_validate(dict(words))
    except ValidationError as error:
        first = error.errors()[0]
        path = ".".join(str(part) for part in first["loc"] if not (isinstance(part, str) and "[" in part))
        if first["type"] == "extra_forbidden":
            sections: dict[str, type[_Section]] = {"task": TaskSpec, "array": ArraySpec}
            known = sections.get(str(first["loc"][0]), Spec).model_fields
            raise InvalidInput(f"{source}: {path} is unknown; choose one of {', '.join(known)}") from error
        given = "" if first["type"] == "missing" else f"={first['input']!r}"
        raise InvalidInput(f"{source}: {path}{given}: {first['msg'][:1].lower()}{first['msg'][1:]}") from error
    try:
        plan_of(spec.plan)
    except InvalidInput as error:
        raise InvalidInput(f"{source}: {error}") from error
    return spec


def load_spec(path: Path | str) -> Spec:
    """Read a spec from a TOML file.

    Raises:
        InvalidInput: if it cannot be read, is no TOML, or has a mistake, naming the place.
    """
    try:
        words = tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise InvalidInput(f"spec {str(path)!r} cannot be read ({error.strerror}); name a TOML file") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InvalidInput(f"spec {str(path)!r} is no TOML: {error}") from error
    return spec_of(words, source=str(path))


def schema() -> dict[str, Any]:
    """Give the JSON Schema of a spec, for editors."""
    found: dict[str, Any] = _or_one(Spec.model_json_schema())
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **found}


def _or_one(part: Any) -> Any:
    """Allow one value in place of a list of one, as `spec_of` does."""
    if isinstance(part, list):
        return [_or_one(item) for item in part]
    if not isinstance(part, dict):
        return part
    part = {name: _or_one(item) for name, item in part.items()}
    if part.get("type") != "array":
        return part
    listed = {"type": "array", "items": part["items"], "minItems": 1}
    others = {name: value for name, value in part.items() if name not in ("type", "items", "minLength", "minItems")}
    return {"anyOf": [part["items"], listed], **others}


def settings_of(spec: Spec) -> Iterator[tuple[dict[str, Any], dict[str, Any], dict[str, Any]]]:
    """Give every combination of what has several values: its labels, the task's words and the array's words.

    Labels name only what has several values; the array's ``name`` is called ``array`` there.
    """
    fields = [
        (section, name, values)
        for section, part in (("task", spec.task), ("array", spec.array))
        for name, values in part
        if values is not None
    ]
    for chosen in itertools.product(*(values for _, _, values in fields)):
        words: dict[str, dict[str, Any]] = {"task": {}, "array": {}}
        labels: dict[str, Any] = {}
        for (section, name, values), value in zip(fields, chosen, strict=True):
            words[section][name] = value
            if len(values) > 1:
                labels[_LABELS.get((section, name), name)] = value
        yield labels, words["task"], words["array"]


_LABELS: Mapping[tuple[str, str], str] = MappingProxyType(
    {("array", "name"): "array", ("array", "format"): "array_format", ("task", "seed"): "training_seed"}
)
