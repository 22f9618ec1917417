"""The methods page: counts, baselines for every metric, and gaps that are admitted."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from conceptatlas.audit.atlas import Atlas
from conceptatlas.viz.methods import counts, facts, layer_name, metrics, model_name, not_checked


def test_every_metric_has_a_baseline_and_a_value(atlas: Atlas) -> None:
    assert all(metric.baseline and metric.here and metric.meaning for metric in metrics(atlas))


def test_counts_come_from_the_run(atlas: Atlas) -> None:
    assert counts(atlas) == {"seen": 121, "used": 120, "skipped": 1}


def test_an_atlas_without_labels_admits_it(atlas: Atlas) -> None:
    unlabelled = replace(atlas, images=atlas.images.assign(correct=None))
    assert any("No image has a label" in gap for gap in not_checked(unlabelled))
    reliability = next(m for m in metrics(unlabelled) if m.name == "Reliability")
    assert reliability.baseline == "not known: no labels"


def test_images_without_labels_are_counted(atlas: Atlas) -> None:
    missing = int(atlas.images["correct"].isna().sum())
    assert any(gap.startswith(f"{missing} images of 120 without a label") for gap in not_checked(atlas))


@pytest.mark.parametrize("words", ["no concepts were sought", "could not be used", "do not tell where they come from"])
def test_what_was_left_out_is_listed(atlas: Atlas, words: str) -> None:
    assert any(words in gap for gap in not_checked(atlas))


def test_foreground_is_admitted_to_be_unknown_without_masks(atlas: Atlas) -> None:
    bare = replace(atlas, shortcut_table=atlas.shortcut_table.drop(columns="foreground_share"))
    assert any("No masks" in gap for gap in not_checked(bare))
    assert not any("No masks" in gap for gap in not_checked(atlas))


def test_everything_the_run_recorded_is_listed_flat(atlas: Atlas) -> None:
    found = dict(facts(atlas))
    assert found["layer.grid"] == "12, 12"
    assert found["versions.torch"] == "2.15"
    assert "schema" not in found


def test_model_and_layer_may_be_given_as_plain_text(make_atlas: Callable[..., Atlas]) -> None:
    atlas = replace(make_atlas(n_classes=1, n_images=12, n_views=2), run={"model": "resnet18", "layer": "layer4"})
    assert (model_name(atlas), layer_name(atlas)) == ("resnet18", "layer4")


def test_what_changes_decisions_is_counted_beside_a_random_choice(atlas: Atlas) -> None:
    found = next(m for m in metrics(atlas) if m.name == "Counterfactual")
    rows = [row for name in atlas for row in atlas[name].images.to_dict("records") if isinstance(row["flips_to"], str)]
    changed = sum(bool(row["flipped"]) for row in rows)
    assert found.here.startswith(f"{changed} of {len(rows)} images tried change class")
    assert found.baseline.replace("\u00a0", " ").startswith("20 %")  # one of five concepts


def test_measures_that_did_not_run_are_not_listed(atlas: Atlas) -> None:
    bare = {
        name: replace(member, images=member.images.drop(columns=["counterfactual", "flips_to"]))
        for name, member in atlas.items()
    }
    names = {m.name for m in metrics(replace(atlas, members=bare))}
    assert "Counterfactual" not in names
    assert "Parts: coherence" not in names  # the parts of this atlas were not looked at further down


def test_coherence_of_parts_stands_beside_chance(atlas: Atlas) -> None:
    member = atlas["class 0"]
    nodes = tuple(
        n.with_findings(coherence=0.5, chance=0.1) if n.parent is not None else n for n in member.bank.tree.nodes
    )
    grown = member.with_bank(replace(member.bank, tree=replace(member.bank.tree, nodes=nodes)))
    found = next(m for m in metrics(replace(atlas, members={"class 0": grown})) if m.name == "Parts: coherence")
    assert found.here == "median 0.50 (0.50 to 0.50) over 4 parts of 4"
    assert found.baseline.startswith("median 0.10")
