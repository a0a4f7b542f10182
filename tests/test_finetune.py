"""Several fits averaged, and a run that goes on between two of them."""

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from models.errors import UsageError
from training.base import locate_base, write_tokenizer
from training.config import load_recipe, revise
from training.data import Example
from training.finetune import fit, focus_rows
from training.objective import row_weight, target
from training.pipeline import load_split
from training.teachers import with_opinions


def test_rows_of_a_slice_count_what_the_recipe_says(tiny_recipe: Path) -> None:
    settings = load_recipe(tiny_recipe, ["fit.contested_weight=0.5", "fit.slice_weights={origin=real: 3.0, issue=iran: 2.0}"]).fit
    plain = Example("a", "One.", "neutral", None, {"issue": ("china",), "origin": ()}, "rows.csv:1")
    real = Example(
        "b", "Two.", "neutral", None, {"issue": ("iran", "china"), "origin": ("real",)}, "rows.csv:2", ("neutral", "pro_dialogue")
    )
    assert row_weight(plain, settings) == 1.0
    assert row_weight(real, settings) == 3.0
    with pytest.raises(UsageError, match="slice_weights"):
        load_recipe(tiny_recipe, ["fit.slice_weights={real: 3.0}"])


def test_annotators_share_a_row_where_the_recipe_says_so(tiny_recipe: Path) -> None:
    split = Example("a", "One.", "neutral", None, {}, "rows.csv:1", ("neutral", "pro_pressure", "neutral"))
    once = Example("b", "Two.", "pro_dialogue", None, {}, "rows.csv:2")
    hard, soft = (load_recipe(tiny_recipe, [f"fit.soft_labels={wish}"]) for wish in ("false", "true"))
    assert target(split, hard) == [0, 0, 1]
    assert target(split, soft) == [0, 0.25, 0.75]
    assert target(once, soft) == target(once, hard) == [1, 0, 0]


def test_members_are_averaged_and_finished_ones_are_kept(tiny_recipe: Path, tmp_path: Path) -> None:
    recipe = load_recipe(
        tiny_recipe, ["fit.members=2", "fit.epochs=1", "fit.name_swap=0.5", "fit.r_drop=1.0", "fit.layer_decay=0.9"]
    )
    split = load_split(recipe, lambda _: None)
    base = locate_base(recipe.model.base)
    write_tokenizer(base, tmp_path / "tokenizer.json")
    first = fit(recipe, base, tmp_path / "tokenizer.json", split, tmp_path / "run", resume=False, quiet=True)
    members = [load_file(tmp_path / "run" / f"member-{number}" / "weights.safetensors") for number in (1, 2)]
    assert not torch.equal(members[0]["head.weight"], members[1]["head.weight"])
    assert torch.allclose(first.network.head.weight, (members[0]["head.weight"] + members[1]["head.weight"]) / 2)
    steps = [entry["step"] for entry in first.history if "eval_macro_f1" in entry]
    assert len(steps) == 2
    assert steps == sorted(set(steps))
    kept = (tmp_path / "run" / "member-1" / "weights.safetensors").stat().st_mtime_ns
    shutil.rmtree(tmp_path / "run" / "member-2")
    again = fit(recipe, base, tmp_path / "tokenizer.json", split, tmp_path / "run", resume=True, quiet=True)
    assert (tmp_path / "run" / "member-1" / "weights.safetensors").stat().st_mtime_ns == kept
    for name, value in first.network.state_dict().items():
        assert torch.equal(value, again.network.state_dict()[name]), name


def test_a_second_fit_goes_on_with_the_rows_in_focus(tiny_recipe: Path, tmp_path: Path) -> None:
    focused = ["fit.epochs=1", "fit.focus={rows: phenomena=blame_only, epochs: 2, learning_rate: 0.001, members: 2}"]
    recipe = load_recipe(tiny_recipe, focused)
    split = load_split(recipe, lambda _: None)
    chosen = focus_rows(split.train, recipe.fit)
    assert chosen
    assert all("blame_only" in example.slices["phenomena"] for example in chosen)
    more = focus_rows(split.train, load_recipe(tiny_recipe, [*focused, "fit.focus.others=0.5"]).fit)
    assert len(chosen) < len(more) < len(split.train)
    assert all(example in more for example in chosen)
    both = focus_rows(split.train, load_recipe(tiny_recipe, [*focused, "fit.focus.also=[phenomena=negation]"]).fit)
    wanted = {"blame_only", "negation"}
    assert list(both) == [example for example in split.train if wanted & set(example.slices["phenomena"])]
    assert len(both) > len(chosen)
    base = locate_base(recipe.model.base)
    write_tokenizer(base, tmp_path / "tokenizer.json")
    found = fit(recipe, base, tmp_path / "tokenizer.json", split, tmp_path / "run", resume=False, quiet=True)
    first, one, two = (load_file(tmp_path / "run" / name / "weights.safetensors") for name in ("first", "member-1", "member-2"))
    alone = fit(
        load_recipe(tiny_recipe, ["fit.epochs=1"]),
        base,
        tmp_path / "tokenizer.json",
        split,
        tmp_path / "alone",
        resume=False,
        quiet=True,
    )
    assert torch.equal(first["head.weight"], alone.network.head.weight)
    assert torch.allclose(found.network.head.weight, (one["head.weight"] + two["head.weight"]) / 2)
    assert not torch.equal(one["head.weight"], first["head.weight"])
    assert [entry["epoch"] for entry in found.history if "loss" in entry] == [1, 1, 2, 1, 2]
    assert [entry["epoch"] for entry in found.history if "eval_loss" in entry] == [1], "a focus chooses no epoch"
    steps = [entry["step"] for entry in found.history]
    assert steps == sorted(steps)


def test_a_focus_that_no_row_has_is_said_and_left_out(tiny_recipe: Path, tmp_path: Path) -> None:
    said: list[str] = []
    recipe = load_recipe(tiny_recipe, ["fit.focus.rows=origin=real"])
    split = load_split(recipe, said.append)
    assert focus_rows(split.train, recipe.fit) == ()
    assert any("no row of origin=real" in line for line in said)


def test_teachers_judge_what_they_have_not_learnt(tiny_recipe: Path, tmp_path: Path) -> None:
    recipe = load_recipe(tiny_recipe, ["fit.epochs=1", "fit.members=2", "fit.teachers={folds: 2, weight: 0.25}"])
    split = load_split(recipe, lambda _: None)
    base = locate_base(recipe.model.base)
    tokenizer = tmp_path / "tokenizer.json"
    write_tokenizer(base, tokenizer)
    taught = with_opinions(recipe, base, tokenizer, split, tmp_path / "run", resume=False, quiet=True)
    assert [row.id for row in taught.train] == [row.id for row in split.train]
    for row in taught.train:
        assert sum(row.opinion) == pytest.approx(1)
        own = [float(label == row.label) for label in recipe.labels.labels]
        assert target(row, recipe) == pytest.approx([0.75 * a + 0.25 * b for a, b in zip(own, row.opinion, strict=True)])
    assert [row.opinion for row in taught.validation] == [()] * len(split.validation)
    shutil.rmtree(tmp_path / "run" / "teacher-2")
    judged_by_first = np.load(tmp_path / "run" / "teacher-1" / "opinions.npy")
    again = with_opinions(recipe, base, tokenizer, split, tmp_path / "run", resume=True, quiet=True)
    assert [row.opinion for row in again.train] == [row.opinion for row in taught.train]
    assert 0 < len(judged_by_first) < len(split.train)
    first = replace(split.train[0], label=next(label for label in recipe.labels.labels if label != split.train[0].label))
    turned = replace(split, train=(first, *split.train[1:]))
    others = with_opinions(recipe, base, tokenizer, turned, tmp_path / "turned", resume=False, quiet=True)
    assert np.argsort(others.train[0].opinion).tolist() == np.argsort(taught.train[0].opinion).tolist(), (
        "its own label is not learnt"
    )
    assert others.train != taught.train
    with pytest.raises(UsageError, match=r"fit\.teachers\.folds 9999 is more than"):
        with_opinions(revise(recipe, {"fit.teachers.folds": 9999}), base, tokenizer, split, tmp_path, resume=False, quiet=True)
    with pytest.raises(UsageError, match="one fold leaves nothing"):
        load_recipe(tiny_recipe, ["fit.teachers.folds=1"])
