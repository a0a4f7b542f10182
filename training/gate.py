"""The gate before promotion: a challenger beside the champion, on rows that the challenger never learnt.

The champion's test side was frozen when it was trained (its run holds the recipe and the split by id, its manifest their digest);
the gate refuses where those rows are no longer there or no longer the same, or where the challenger learnt one of them or a near
repeat. The challenger's own further tests, the newsroom's labels among them, and the files given by hand are judged on too,
without the rows that either model learnt. The verdict and its evidence are written to the challenger's version and run.
"""

import json
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from models.aliases import CHALLENGER, CHAMPION
from models.classifier import Classifier
from models.documents import read_yaml
from models.errors import UsageError
from models.registry import Source, reaching, resolve
from training.behaviour import load_suite, run_suite, unknown_labels
from training.config import DataRecipe
from training.data import Example, data_digest, load_examples
from training.evaluate import Evaluation, compare, evaluate
from training.held_out import choose_tests, rows_of

_USUAL = Path("configs/gate.yaml")
_SPEED_SENTENCES = 200
_SPEED_ROUNDS = 5


class Rules(BaseModel):
    """The gate's limits; `configs/gate.yaml` says what each means."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    max_loss: float = Field(0.01, ge=0)
    min_rows: int = Field(50, ge=1)
    max_slice_loss: float = Field(0.05, ge=0)
    min_slice_rows: int = Field(50, ge=1)
    max_ece: float = Field(0.08, ge=0)
    behaviour: Path | None = None
    max_behaviour_loss: float = Field(0.02, ge=0)
    max_megabytes: float = Field(130, gt=0)
    max_slowdown: float = Field(1.25, gt=0)


@dataclass(frozen=True, slots=True)
class Check:
    """One limit: whether it is kept to, and the figures."""

    name: str
    passed: bool
    found: str


@dataclass(frozen=True, slots=True)
class Verdict:
    """All checks of one challenger; `tests` are the rows and the SHA-256 of what it was judged on."""

    version: int
    champion: int | None
    checks: tuple[Check, ...]
    tests: dict[str, tuple[int, str]]

    @property
    def passed(self) -> bool:
        """Whether every limit is kept to."""
        return all(check.passed for check in self.checks)

    def table(self) -> str:
        """The checks as plain text."""
        beside = f"beside champion {self.champion}" if self.champion is not None else "no champion yet"
        lines = [f"version {self.version}, {beside}: {'passed' if self.passed else 'FAILED'}"]
        lines += [f"{'ok  ' if check.passed else 'FAIL'}  {check.name:<28}  {check.found}" for check in self.checks]
        return "\n".join(lines)


def load_rules(path: Path | None = None) -> Rules:
    """Read the limits, those of this release where there is no file; UsageError names the one that is wrong."""
    if path is None and not _USUAL.is_file():
        return Rules()
    path = path or _USUAL
    try:
        return Rules.model_validate(read_yaml(path, "file of the gate's limits", "configs/gate.yaml"))
    except ValidationError as error:
        first = error.errors()[0]
        raise UsageError(f"{path}: {'.'.join(map(str, first['loc']))}: {first['msg']}. See configs/gate.yaml.") from error


def run_gate(
    name: str,
    version: int | None,
    rules: Rules,
    files: Sequence[str],
    text_column: str,
    label_column: str,
    say: Callable[[str], object],
) -> Verdict:
    """Judge `version` of `name` (the challenger where it is None) and write the verdict to the registry."""
    with reaching(f"models:/{name}") as client:
        aliases = {alias: str(number) for alias, number in client.get_registered_model(name).aliases.items()}
        chosen = str(version) if version is not None else aliases.get(CHALLENGER)
        if chosen is None:
            raise UsageError(f"{name} has no challenger. Train one, or name a version.")
        champion = aliases.get(CHAMPION)
        if champion == chosen:
            raise UsageError(f"version {chosen} of {name} is the champion. Train a challenger, or name another version.")
        challenger = resolve(f"models:/{name}/{chosen}")
        before = resolve(f"models:/{name}/{champion}") if champion is not None else None
        known = {source.version: rows_of(client, name, source) for source in (challenger, before) if source is not None}
    data = DataRecipe(text_column=text_column, label_column=label_column)
    given = {file: load_examples([file], data, challenger.bundle.manifest.label_set) for file in files}
    tests = choose_tests(name, challenger, before, known, given, say)
    checks = _judge(challenger, before, tests, rules, say)
    digests = {where: (len(rows), data_digest(rows)) for where, rows in tests.items()}
    verdict = Verdict(int(chosen), int(champion) if champion is not None else None, tuple(checks), digests)
    with reaching(f"models:/{name}") as client:
        client.set_model_version_tag(name, chosen, "gate", "passed" if verdict.passed else "failed")
        client.set_model_version_tag(name, chosen, "gate_champion", champion or "none")
        run_id = client.get_model_version(name, chosen).run_id
        if run_id:
            client.log_text(run_id, json.dumps(asdict(verdict) | {"rules": rules.model_dump(mode="json")}, indent=1), "gate.json")
    return verdict


def _judge(
    challenger: Source, champion: Source | None, tests: dict[str, list[Example]], rules: Rules, say: Callable[[str], object]
) -> list[Check]:
    checks: list[Check] = []
    megabytes = sum(entry.bytes for entry in challenger.bundle.manifest.files.values()) / 1e6
    checks.append(Check("size", megabytes <= rules.max_megabytes, f"{megabytes:.1f} MB, at most {rules.max_megabytes:g}"))
    if champion is not None and champion.bundle.manifest.label_set != challenger.bundle.manifest.label_set:
        known = ", ".join(champion.bundle.manifest.label_set.labels)
        return [*checks, Check("labels", False, f"not those of the champion ({known})")]
    most = max(len(rows) for rows in tests.values())
    checks.append(Check("rows", most >= rules.min_rows, f"{most} in the largest test, at least {rules.min_rows}"))
    with Classifier(challenger.bundle) as new:
        old = Classifier(champion.bundle) if champion is not None else None
        try:
            for where, rows in tests.items():
                say(f"{len(rows)} rows of {where}")
                checks += _compare(evaluate(old, rows) if old is not None else None, evaluate(new, rows), where, rules)
            checks += _behave(old, new, rules)
            if old is not None:
                checks.append(_time(old, new, tests, rules))
        finally:
            if old is not None:
                old.close()
    return checks


def _compare(old: Evaluation | None, new: Evaluation, where: str, rules: Rules) -> list[Check]:
    """Checks on one test; one of fewer rows than `min_rows` is shown and decides nothing."""
    rows, ece = new.scores.rows, new.scores.ece
    few = rows < rules.min_rows
    note = f"; {rows} rows decide nothing" if few else ""
    checks = [Check(f"calibration, {where}", few or ece <= rules.max_ece, f"ECE {ece:.3f}, at most {rules.max_ece:g}{note}")]
    if old is None:
        return checks
    found = compare(old, new)
    low, high = found.interval
    checks.append(
        Check(
            f"macro-F1, {where}",
            few or found.difference >= -rules.max_loss,
            f"{old.scores.macro_f1:.3f} -> {new.scores.macro_f1:.3f} ({found.difference:+.3f}, 95 % {low:+.3f} to {high:+.3f})"
            + note,
        )
    )
    losses = {
        slice_: figures["macro_f1"] - new.scores.slices[slice_]["macro_f1"]
        for slice_, figures in old.scores.slices.items()
        if figures["rows"] >= rules.min_slice_rows
    }
    if losses:
        worst = max(losses, key=losses.__getitem__)
        checks.append(Check(f"slices, {where}", losses[worst] <= rules.max_slice_loss, f"most lost: {worst} {-losses[worst]:+.3f}"))
    return checks


def _behave(old: Classifier | None, new: Classifier, rules: Rules) -> list[Check]:
    suite = load_suite(rules.behaviour) if rules.behaviour is not None else None
    if suite is None or unknown_labels(suite, new.label_set.labels):
        return []
    share = run_suite(new, suite).shares()["all"]
    if old is None:
        return [Check("behaviour", True, f"{share:.1%}")]
    before = run_suite(old, suite).shares()["all"]
    return [Check("behaviour", share >= before - rules.max_behaviour_loss, f"{before:.1%} -> {share:.1%}")]


def _time(old: Classifier, new: Classifier, tests: dict[str, list[Example]], rules: Rules) -> Check:
    """Rounds in turn, so that what else the machine does meets both alike."""
    texts = [row.text for rows in tests.values() for row in rows][:_SPEED_SENTENCES]
    taken: dict[Classifier, list[float]] = {old: [], new: []}
    for classifier in (old, new):
        classifier.warm()
    for _ in range(_SPEED_ROUNDS):
        for classifier, times in taken.items():
            start = time.perf_counter()
            classifier.classify(texts)
            times.append(time.perf_counter() - start)
    ratio = statistics.median(taken[new]) / statistics.median(taken[old])
    return Check("speed", ratio <= rules.max_slowdown, f"{ratio:.2f} times the champion's time, at most {rules.max_slowdown:g}")
