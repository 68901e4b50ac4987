"""`kustomize build`, for as much of kustomize as deploy/kubernetes uses; anything else is an error.

Resources, components, and strategic merge patches of which each names its target. A list is merged by the
`name` of its items, a null deletes.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, TypeAlias

import yaml

Document: TypeAlias = dict[str, Any]
KINDS = {"Kustomization": "kustomize.config.k8s.io/v1beta1", "Component": "kustomize.config.k8s.io/v1alpha1"}
MERGED_BY_NAME = {"env", "containers", "volumes", "volumeMounts"}


class NotKustomizable(Exception):
    """The folder has something that kustomize, or this module, would not know how to handle."""


def build(folder: Path, *components: Path) -> list[Document]:
    """The documents of a folder, with components that an overlay could add."""
    documents = _built(folder, [])
    for component in components:
        documents = _built(component, documents)
    identities = [identity(document) for document in documents]
    if len(set(identities)) < len(identities):
        raise NotKustomizable(f"{folder}: a document twice: {sorted(identities)}")
    return documents


def read(file: Path) -> list[Document]:
    """The documents of a file."""
    return [document for document in yaml.safe_load_all(file.read_text()) if document is not None]


def identity(document: Document) -> tuple[str, str, str]:
    return document["apiVersion"], document["kind"], document["metadata"]["name"]


def _built(folder: Path, documents: list[Document]) -> list[Document]:
    [kustomization] = read(folder / "kustomization.yaml")
    if KINDS.get(kustomization.pop("kind")) != kustomization.pop("apiVersion"):
        raise NotKustomizable(f"{folder}: not a kustomization")
    documents = list(documents)
    for name in kustomization.pop("resources", []):
        path = folder / name
        documents += _built(path, []) if path.is_dir() else read(path)
    for name in kustomization.pop("components", []):
        documents = _built(folder / name, documents)
    for patch in kustomization.pop("patches", []):
        for change in read(folder / patch.pop("path")):
            documents = _patched(documents, change)
        if patch:
            raise NotKustomizable(f"{folder}: a patch with {sorted(patch)}")
    if kustomization:
        raise NotKustomizable(f"{folder}: {sorted(kustomization)}")
    return documents


def _patched(documents: list[Document], change: Document) -> list[Document]:
    targets = [identity(document) for document in documents]
    if targets.count(identity(change)) != 1:
        raise NotKustomizable(f"a patch of {identity(change)}, of which there is not one")
    place = targets.index(identity(change))
    return [*documents[:place], _merged(documents[place], change), *documents[place + 1 :]]


def _merged(old: Document, change: Document) -> Document:
    new = dict(old)
    for key, value in change.items():
        if value is None:
            new.pop(key, None)
        elif isinstance(value, dict):
            new[key] = _merged(old.get(key, {}), value)
        elif isinstance(value, list) and key in MERGED_BY_NAME:
            new[key] = _merged_by_name(old.get(key, []), value)
        else:
            new[key] = value
    return new


def _merged_by_name(old: list[Document], changes: list[Document]) -> list[Document]:
    items = {item["name"]: item for item in old}
    for change in changes:
        items[change["name"]] = _merged(items.get(change["name"], {}), change)
    return list(items.values())
