"""A dataset's origin in croissant.json: provenance in PROV-O, and the terms of what went into it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from figureground.core.local_paths import strip_local_paths
from figureground.shards.card_context import CardContext
from figureground.shards.shard import RECIPE
from figureground.sources.provenance import NOT_STATED

_CONTENT = {"cutouts": "cut-outs", "scenes": "scenes", "photographs": "photographs"}


def describe_provenance(facts: CardContext, recipe_sha256: str | None) -> dict[str, Any]:
    """Return `prov:wasGeneratedBy` and `prov:wasDerivedFrom` of a dataset, as far as they are known.

    Args:
        facts: Facts on the card.
        recipe_sha256: SHA-256 of the recipe's identity, if known.
    """
    sources = [_describe_source(source) for source in strip_local_paths(facts.sources)]
    checkpoint = _describe_checkpoint(strip_local_paths(facts.checkpoint))
    concepts = [_describe_concept(concept) for concept in strip_local_paths(facts.concepts)]
    version = facts.numerics.get("versions", {}).get("figureground", "")
    software = {"@type": ["prov:Agent", "prov:SoftwareAgent"], "prov:label": f"figureground {version}".strip()}
    plan: dict[str, Any] = {"@type": ["prov:Entity", "prov:Plan"], "@id": RECIPE, "prov:label": "recipe"}
    if recipe_sha256 is not None:
        plan["sha256"] = recipe_sha256
    build = {
        "@type": "prov:Activity", "prov:label": facts.builder, "prov:used": [*checkpoint, *concepts, *sources],
        "prov:wasAssociatedWith": software,
        "prov:qualifiedAssociation": {"@type": "prov:Association", "prov:agent": software, "prov:hadPlan": plan},
    }  # fmt: skip
    steps = strip_local_paths(facts.lineage)
    datasets = [_describe_dataset(dataset) for step in steps for dataset in _iterate_sources(step)]
    return {
        "prov:wasGeneratedBy": [{name: value for name, value in build.items() if value}, *map(_describe_step, steps)],
        "prov:wasDerivedFrom": [*checkpoint, *sources, *datasets],
    }


def describe_licenses(facts: CardContext) -> list[dict[str, Any]]:
    """Return the licences of the checkpoint and of the source images, for `usageInfo`: they bind who uses the images.

    The licence of the dataset itself is `license`.
    """
    licenses = []
    checkpoint = strip_local_paths(facts.checkpoint)
    if checkpoint.get("license", NOT_STATED) != NOT_STATED:
        terms = checkpoint.get("link") or checkpoint["license"]
        licenses.append(_describe_license(f"Licence of the checkpoint {checkpoint['name']}", terms))
    for source in strip_local_paths(facts.sources):
        if source["license"] != NOT_STATED:
            content = _CONTENT.get(source["what"], source["what"])
            licenses.append(_describe_license(f"Licence of the {content} {source['name']}", source["license"]))
    return licenses


def _describe_license(name: str, license: str) -> dict[str, Any]:
    return {"@type": "sc:CreativeWork", "name": name, "license": license}


def _describe_checkpoint(checkpoint: Mapping[str, Any]) -> list[dict[str, Any]]:
    if not checkpoint:
        return []
    entity = {
        "@type": "prov:Entity",
        "prov:label": checkpoint["name"],
        "description": "Checkpoint that drew the images.",
    }
    optional = {"version": checkpoint.get("revision"), "license": checkpoint.get("link") or checkpoint.get("license")}
    return [entity | {name: value for name, value in optional.items() if value and value != NOT_STATED}]


def _describe_source(source: Mapping[str, Any]) -> dict[str, Any]:
    description = f"{source['images']:,} {_CONTENT.get(source['what'], source['what'])} that generation started from."
    entity = {"@type": ["prov:Entity", "prov:Collection"], "prov:label": source["name"], "description": description}
    return entity if source["license"] == NOT_STATED else {**entity, "license": source["license"]}


def _describe_concept(concept: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "@type": "prov:Entity", "prov:label": f"concept {concept['feature']}", "sha256": concept["sha256"],
        "description": f"Learned from {concept['references']:,} images of {concept['class']}.",
    }  # fmt: skip


def _iterate_sources(step: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """Yield the datasets that a step of the lineage names."""
    sources = step.get("from", [])
    yield from (
        source for source in (sources if isinstance(sources, Sequence) else [sources]) if isinstance(source, Mapping)
    )


def _describe_dataset(dataset: Mapping[str, Any]) -> dict[str, Any]:
    entity = {"@type": ["prov:Entity", "prov:Collection"], "prov:label": dataset.get("name", "")}
    return {**entity, "sha256": dataset["sha256"]} if dataset.get("sha256") else entity


def _describe_step(step: Mapping[str, Any]) -> dict[str, Any]:
    rule = {"description": f"Kept samples for which {step['rule']}."} if step.get("rule") else {}
    used = [_describe_dataset(dataset) for dataset in _iterate_sources(step)]
    return {
        "@type": "prov:Activity", "prov:label": str(step["did"]), **rule, **({"prov:used": used} if used else {}),
    }  # fmt: skip
