"""The same trace by the OpenTelemetry SDK for Python, for `benches/table.rs` to compare with.

    python3 benches/python_sdk.py output/onboarding-metadata.json http://localhost:4318

Reads the metadata and the manifest, makes an epic, a story for each type and a task for each
artifact with attributes, events and links, exports them over OTLP/HTTP, and writes the id back.
It is what somebody would write in an afternoon: the SDK's own batching, no queue on disk, no
checks beyond what the libraries do.
"""

import hashlib
import json
import os
import sys
import tempfile

import yaml
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import Link, set_span_in_context

LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def scalar(value):
    """What an attribute can hold."""
    if isinstance(value, (str, bool, int, float)):
        return value
    if isinstance(value, list) and value and all(isinstance(item, str) for item in value):
        return value
    return json.dumps(value)


def pieces(items, limit=2048):
    """JSON lists that each stay under the length at which backends cut."""
    piece, size = [], 2
    for item in items:
        length = len(json.dumps(item)) + 2
        if piece and size + length > limit:
            yield json.dumps(piece)
            piece, size = [], 2
        piece.append(item)
        size += length
    if piece:
        yield json.dumps(piece)


def load(path):
    with open(path, "rb") as file:
        metadata = json.loads(file.read())
    manifest = os.path.join(os.path.dirname(path), metadata["artifact_manifest_path"])
    with open(manifest, "rb") as file:
        text = file.read()
    assert hashlib.sha256(text).hexdigest() == metadata["artifact_manifest_checksum"]
    if manifest.endswith(".json"):
        return metadata, json.loads(text)
    return metadata, yaml.load(text, Loader=LOADER)


def contract_events(span, rules, contract):
    for piece in pieces(rules):
        span.add_event("task.contract", {"derivation_rules": piece})
    span.add_event("task.contract", {"expected_output_contract": json.dumps(contract)[:2048]})


def emit(tracer, metadata, manifest):
    project = metadata["project_id"]
    coverage = metadata["coverage"]
    graph = metadata["artifact_dependency_graph"]
    resolved = metadata["resolved_artifact_parameters"]
    contracts = metadata["expected_output_contracts"]
    rules = metadata["derivation_rules"]
    epic = tracer.start_span(
        f"{project} Observability Artifact Generation",
        attributes={
            "task.id": f"{project}-epic",
            "task.type": "epic",
            "project.id": project,
            "coverage.percent": coverage["overallCoverage"],
            "coverage.total_required": coverage["totalRequired"],
            "coverage.total_existing": coverage["totalExisting"],
            "coverage.total_gaps": len(coverage["gaps"]),
        },
    )
    by_type = {}
    for artifact in manifest["artifacts"]:
        by_type.setdefault(artifact["type"], []).append(artifact)
    contexts = {}
    for kind, artifacts in by_type.items():
        story = tracer.start_span(
            f"{kind} Artifacts",
            context=set_span_in_context(epic),
            attributes={"task.id": f"{project}-{kind}", "task.type": "story", "project.id": project},
        )
        contract_events(story, rules.get(kind, []), contracts.get(kind, {}))
        for artifact in artifacts:
            name = artifact["id"]
            depends_on = graph.get(name, artifact["dependsOn"])
            known = [contexts[other] for other in depends_on if other in contexts]
            attributes = {
                "task.id": name,
                "task.type": "task",
                "task.status": "done" if artifact["status"] == "exists" else "todo",
                "task.title": artifact["name"],
                "project.id": project,
                "artifact.type": kind,
                "artifact.target": artifact["target"],
                "artifact.priority": artifact["priority"],
                "artifact.status": artifact["status"],
                "artifact.depends_on": depends_on,
            }
            for key, value in {**artifact["parameters"], **resolved.get(name, {})}.items():
                attributes[f"artifact.parameters.{key}"] = scalar(value)
            task = tracer.start_span(
                name,
                context=set_span_in_context(story),
                attributes=attributes,
                links=[Link(context, {"link.type": "depends_on"}) for context in known],
            )
            contract_events(task, artifact["derivedFrom"], contracts.get(kind, {}))
            task.add_event("artifact.intent", {"event.intent": "create"})
            contexts[name] = task.get_span_context()
            task.end()
        story.end()
    epic.end()
    return format(epic.get_span_context().trace_id, "032x")


def main():
    path, endpoint = sys.argv[1:]
    exporter = OTLPSpanExporter(endpoint=f"{endpoint}/v1/traces")
    provider = TracerProvider(resource=Resource.create({"service.name": "contextcore-export"}))
    # Large enough that nothing is dropped: the default would lose most of a large trace.
    provider.add_span_processor(BatchSpanProcessor(exporter, max_queue_size=1 << 20))
    metadata, manifest = load(path)
    metadata["task_trace_id"] = emit(provider.get_tracer("taskspan"), metadata, manifest)
    provider.shutdown()
    directory = os.path.dirname(path)
    with tempfile.NamedTemporaryFile("w", dir=directory, delete=False) as file:
        json.dump(metadata, file, indent=2)
    os.replace(file.name, path)


main()
