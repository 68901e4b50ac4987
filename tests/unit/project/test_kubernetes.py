"""deploy/kubernetes: valid by the schemas of Kubernetes and KEDA, and in itself without contradiction."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any, TypeAlias

import jsonschema_rs
import kubernetes_validate.utils
import pytest
from examples import shop

from awakeables.settings import PREFIX, Settings
from awakeables.store.urls import checked_store, is_postgres
from awakeables.web.tokenfile import parse_tokens
from support.kustomize import Document, NotKustomizable, build, identity, read

HERE = Path(__file__).parents[3] / "deploy/kubernetes"
KEDA = HERE / "components/keda"
OVERLAYS = {
    "postgres": build(HERE / "overlays/postgres"),
    "postgres with keda": build(HERE / "overlays/postgres", KEDA),
    "sqlite": build(HERE / "overlays/sqlite"),
}
SECRETS = {
    secret["metadata"]["name"]: secret["stringData"] for secret in read(HERE / "examples/secrets.yaml")
}
OLDEST, NEWEST = "1.30", kubernetes_validate.latest_version()
RECOMMENDED = "app.kubernetes.io/"

Documents: TypeAlias = list[Document]
each_overlay = pytest.mark.parametrize("documents", OVERLAYS.values(), ids=OVERLAYS)


def of_kind(documents: Documents, kind: str) -> Documents:
    return [document for document in documents if document["kind"] == kind]


def pods(documents: Documents) -> dict[str, Document]:
    """The pod template of each Deployment, by its name."""
    return {
        found["metadata"]["name"]: found["spec"]["template"] for found in of_kind(documents, "Deployment")
    }


def container(pod: Document) -> Document:
    [found] = pod["spec"]["containers"]
    return dict(found)


def settings(pod: Document) -> dict[str, Any]:
    """The variables of a pod with their values; those of Secrets and fields are followed."""
    found: dict[str, Any] = {}
    for variable in container(pod)["env"]:
        source = variable.get("valueFrom", {})
        if secret := source.get("secretKeyRef"):
            found[variable["name"]] = SECRETS[secret["name"]][secret["key"]]
        elif field := source.get("fieldRef"):
            [label] = re.findall(r"^metadata\.labels\['(.+)'\]$", field["fieldPath"])
            found[variable["name"]] = pod["metadata"]["labels"][label]
        else:
            found[variable["name"]] = variable["value"]
    return found


def selects(selector: Document, pod: Document) -> bool:
    return bool(selector.items() <= pod["metadata"]["labels"].items())


def selectors(document: Document) -> Iterator[Document]:
    """Those that a document means our own pods by."""
    spec = document.get("spec", {})
    match document["kind"]:
        case "Service":
            yield spec["selector"]
        case "Deployment":
            yield spec["selector"]["matchLabels"]
            for constraint in spec["template"]["spec"]["topologySpreadConstraints"]:
                yield constraint["labelSelector"]["matchLabels"]
        case "PodDisruptionBudget":
            yield spec["selector"]["matchLabels"]
        case "NetworkPolicy":
            yield spec["podSelector"]["matchLabels"]


@pytest.fixture(scope="module", autouse=True)
def _schemas_are_read_once() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            kubernetes_validate.utils, "schema_contents", cache(kubernetes_validate.utils.schema_contents)
        )
        yield


def problems(document: Document, version: str) -> str:
    """What the API would say; empty if it takes the document."""
    if document["apiVersion"].startswith("keda.sh/"):
        schema = json.loads((KEDA / "schema.json").read_text())
        return "; ".join(error.message for error in jsonschema_rs.iter_errors(schema, document))
    try:
        kubernetes_validate.validate(document, version, strict=True)
    except kubernetes_validate.ValidationError as error:
        return str(error.message)
    return ""


@pytest.mark.parametrize("version", [OLDEST, NEWEST])
def test_every_document_is_valid(version: str) -> None:
    documents = [document for documents in OVERLAYS.values() for document in documents]
    distinct = {
        json.dumps(document): document for document in documents + read(HERE / "examples/secrets.yaml")
    }
    assert len(distinct) > 15
    found = {identity(document): problems(document, version) for document in distinct.values()}
    assert not {name: problem for name, problem in found.items() if problem}


@pytest.mark.parametrize(
    ("kind", "path"),
    [
        ("Deployment", "spec.template.spec.terminationGracePeriod"),
        ("NetworkPolicy", "spec.ingres"),
        ("ScaledObject", "spec.minReplicas"),
        ("TriggerAuthentication", "spec.secretTargetRefs"),
    ],
)
def test_a_misspelled_field_is_a_problem(kind: str, path: str) -> None:
    document = json.loads(json.dumps(of_kind(OVERLAYS["postgres with keda"], kind)[0]))
    assert not problems(document, NEWEST)
    *folders, last = path.split(".")
    place = document
    for folder in folders:
        place = place[folder]
    place[last] = 1
    assert problems(document, NEWEST)


def test_what_this_reading_of_kustomize_does_not_know_is_an_error(tmp_path: Path) -> None:
    file = tmp_path / "kustomization.yaml"
    file.write_text("apiVersion: kustomize.config.k8s.io/v1beta1\nkind: Kustomization\nnamePrefix: my-\n")
    with pytest.raises(NotKustomizable, match="namePrefix"):
        build(tmp_path)


def test_no_file_is_left_out() -> None:
    named = {HERE / "examples/secrets.yaml", *HERE.rglob("kustomization.yaml"), KEDA / "schema.json"}
    for kustomization in HERE.rglob("kustomization.yaml"):
        [content] = read(kustomization)
        names = [*content.get("resources", []), *(patch["path"] for patch in content.get("patches", []))]
        named |= {kustomization.parent / name for name in names}
    assert {path for path in HERE.rglob("*") if path.is_file()} <= named


@each_overlay
def test_labels_are_the_recommended_ones_and_every_selector_finds_its_pods(documents: Documents) -> None:
    for document in documents:
        labels = document["metadata"]["labels"]
        assert set(labels) == {
            f"{RECOMMENDED}{name}" for name in ("name", "instance", "component", "part-of", "managed-by")
        }
        for selector in selectors(document):
            found = [name for name, pod in pods(documents).items() if selects(selector, pod)]
            # Exactly those of its own component, and with nothing that changes in a release.
            assert len(found) == 1
            assert selector[f"{RECOMMENDED}component"] == labels[f"{RECOMMENDED}component"]
            assert f"{RECOMMENDED}version" not in selector


@each_overlay
def test_ports_that_are_asked_scraped_and_let_in_are_served(documents: Documents) -> None:
    for pod in pods(documents).values():
        [port] = container(pod)["ports"]
        for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
            assert container(pod)[probe]["httpGet"]["port"] == port["name"]
        assert container(pod)["livenessProbe"]["httpGet"]["path"] == "/health/live"
        assert container(pod)["readinessProbe"]["httpGet"]["path"] == "/health/ready"
        annotations = pod["metadata"]["annotations"]
        assert annotations["prometheus.io/port"] == str(port["containerPort"])
        given = settings(pod)
        default = Settings.model_fields["port"].default
        assert port["containerPort"] == int(given.get("AWAKEABLES_METRICS_PORT", default))
        policies = [
            policy["spec"]
            for policy in of_kind(documents, "NetworkPolicy")
            if selects(policy["spec"]["podSelector"]["matchLabels"], pod) and "ingress" in policy["spec"]
        ]
        assert [
            [let["port"] for rule in policy["ingress"] for let in rule["ports"]] for policy in policies
        ] == [[port["name"]]]
    [service] = of_kind(documents, "Service")
    [published] = service["spec"]["ports"]
    [served] = container(pods(documents)["shop"])["ports"]
    assert published["targetPort"] == served["name"]


@each_overlay
def test_the_way_out_leads_to_dns_to_kafka_and_to_the_store(documents: Documents) -> None:
    for name, pod in pods(documents).items():
        open_ports = {
            port["port"]
            for policy in of_kind(documents, "NetworkPolicy")
            if selects(policy["spec"]["podSelector"]["matchLabels"], pod)
            for rule in policy["spec"]["egress"]
            for port in rule["ports"]
        }
        given = settings(pod)
        wanted = {53, int(given["AWAKEABLES_KAFKA"].rpartition(":")[2])}
        if is_postgres(given.get("AWAKEABLES_STORE", "")):
            wanted.add(5432)
        assert open_ports == wanted, name


@each_overlay
def test_every_variable_is_a_setting_with_a_valid_value(documents: Documents) -> None:
    for pod in pods(documents).values():
        given = settings(pod)
        names = {name.removeprefix(PREFIX).lower() for name in given}
        assert names <= set(Settings.model_fields)
        assert all(name.startswith(PREFIX) for name in given)
        # As pydantic reads the environment: everything is text.
        Settings(**{name.removeprefix(PREFIX).lower(): value for name, value in given.items()})
        # A Service called `awakeables` would set AWAKEABLES_PORT=tcp://….
        assert pod["spec"]["enableServiceLinks"] is False


@each_overlay
def test_a_pod_is_left_more_time_than_it_takes_to_drain(documents: Documents) -> None:
    drain_s = Settings.model_fields["drain_timeout"].default.total_seconds()
    for pod in pods(documents).values():
        assert "AWAKEABLES_DRAIN_TIMEOUT" not in settings(pod)
        before_s = container(pod).get("lifecycle", {}).get("preStop", {}).get("sleep", {}).get("seconds", 0)
        assert pod["spec"]["terminationGracePeriodSeconds"] >= before_s + drain_s + 10


@each_overlay
def test_a_pod_may_do_nothing_that_it_does_not_need(documents: Documents) -> None:
    for pod in pods(documents).values():
        user = pod["spec"]["securityContext"]
        assert (user["runAsNonRoot"], user["runAsUser"], user["runAsGroup"]) == (True, 10001, 10001)
        assert user["seccompProfile"] == {"type": "RuntimeDefault"}
        assert container(pod)["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
        assert pod["spec"]["automountServiceAccountToken"] is False
        accounts = [account["metadata"]["name"] for account in of_kind(documents, "ServiceAccount")]
        assert pod["spec"]["serviceAccountName"] in accounts
        assert {"cpu", "memory"} == set(container(pod)["resources"]["requests"])
        assert "memory" in container(pod)["resources"]["limits"]


@each_overlay
def test_every_volume_is_there_and_mounted(documents: Documents) -> None:
    claims = {claim["metadata"]["name"] for claim in of_kind(documents, "PersistentVolumeClaim")}
    claimed = set()
    for pod in pods(documents).values():
        volumes = {volume["name"]: volume for volume in pod["spec"]["volumes"]}
        mounts = {mount["name"]: mount["mountPath"] for mount in container(pod)["volumeMounts"]}
        assert set(mounts) == set(volumes)
        claimed |= {
            volume["persistentVolumeClaim"]["claimName"]
            for volume in volumes.values()
            if "persistentVolumeClaim" in volume
        }
        if "tokens" in volumes:
            folder, _, name = settings(pod)["AWAKEABLES_TOKENS_FILE"].rpartition("/")
            assert folder == mounts["tokens"]
            content = SECRETS[volumes["tokens"]["secret"]["secretName"]][name]
            assert {"call:orders", "metrics"} <= {
                scope for holder in parse_tokens(content.encode()) for scope in holder.scopes
            }
    assert claimed == claims


def test_several_instances_share_postgresql_and_are_replaced_one_by_one() -> None:
    documents = OVERLAYS["postgres"]
    [shop_] = [found for found in of_kind(documents, "Deployment") if found["metadata"]["name"] == "shop"]
    assert shop_["spec"]["replicas"] >= 2
    assert shop_["spec"]["strategy"]["rollingUpdate"] == {"maxUnavailable": 0, "maxSurge": 1}
    assert is_postgres(checked_store(settings(shop_["spec"]["template"])["AWAKEABLES_STORE"]))
    budgets = {found["metadata"]["name"] for found in of_kind(documents, "PodDisruptionBudget")}
    assert budgets == {"shop", "packer"}


def test_a_file_has_one_instance_which_ends_before_the_next_begins() -> None:
    documents = OVERLAYS["sqlite"]
    [shop_] = [found for found in of_kind(documents, "Deployment") if found["metadata"]["name"] == "shop"]
    assert shop_["spec"]["replicas"] == 1
    assert shop_["spec"]["strategy"] == {"type": "Recreate"}
    pod = shop_["spec"]["template"]
    [claim] = of_kind(documents, "PersistentVolumeClaim")
    assert claim["spec"]["accessModes"] == ["ReadWriteOncePod"]
    [mount] = [mount for mount in container(pod)["volumeMounts"] if mount["name"] == "store"]
    assert Path(settings(pod)["AWAKEABLES_STORE"]).parent == Path(mount["mountPath"])
    assert pod["spec"]["securityContext"]["fsGroup"] == 10001
    # A budget would forbid to drain the node of the only instance.
    assert {found["metadata"]["name"] for found in of_kind(documents, "PodDisruptionBudget")} == {"packer"}


def test_keda_counts_the_tasks_of_the_worker_as_the_worker() -> None:
    documents = OVERLAYS["postgres with keda"]
    [scaled] = of_kind(documents, "ScaledObject")
    spec = scaled["spec"]
    [target] = [
        found
        for found in of_kind(documents, "Deployment")
        if found["metadata"]["name"] == spec["scaleTargetRef"]["name"]
    ]
    assert "replicas" not in target["spec"]
    [trigger] = spec["triggers"]
    worker = settings(target["spec"]["template"])
    assert trigger["metadata"]["bootstrapServers"] == worker["AWAKEABLES_KAFKA"]
    assert trigger["metadata"]["consumerGroup"] == shop.packer.name
    assert trigger["metadata"]["topic"] in shop.packer.topics
    [authentication] = of_kind(documents, "TriggerAuthentication")
    assert trigger["authenticationRef"]["name"] == authentication["metadata"]["name"]
    read_from = {ref["parameter"]: ref for ref in authentication["spec"]["secretTargetRef"]}
    for parameter, ref in read_from.items():
        assert SECRETS[ref["name"]][ref["key"]] == worker[f"AWAKEABLES_KAFKA_SASL_{parameter.upper()}"]
    assert set(read_from) == {"username", "password"}


def test_every_secret_of_the_example_is_used() -> None:
    text = "".join(json.dumps(documents) for documents in OVERLAYS.values())
    assert all(f'"{name}"' in text for name in SECRETS)


def test_the_pods_run_the_app_and_the_worker_of_the_example() -> None:
    for documents in OVERLAYS.values():
        commands = {name: container(pod)["args"] for name, pod in pods(documents).items()}
        assert commands == {"shop": ["serve", "shop:app"], "packer": ["worker", "shop:packer"]}
        assert (shop.app.name, shop.packer.name) == tuple(commands)
