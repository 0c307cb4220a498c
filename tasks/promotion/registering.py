"""A challenger put into MLflow: its run with the candidates below, its version, its policy, the facts beside it.

The talk with MLflow is the registry's; what training found is not looked into here.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import replace

from tasks.project import Project
from tasks.promotion.exporting import attach_onnx, compared_inputs
from tasks.promotion.registry import CHALLENGER, Registry
from tasks.promotion.tracking import NOTE
from tasks.promotion.unregistered import Unregistered
from tasks.records import Policy, Retrained
from tasks.store import Store
from tasks.store.policies import append_policy, policy_in_force
from tasks.whole_files import written_whole


def register_challenger(
    project: Project, store: Store, registry: Registry, waiting: Unregistered, run_id: int
) -> Retrained:
    """Afterwards the student is the registry's challenger, its policy in the store, its facts under the root.

    What an attempt before that was interrupted left is taken up or taken away, so that nothing stands there twice.

    Args:
        project: its settings.
        store: keeps the policy.
        registry: takes run and version.
        waiting: what a retrain made; forgotten afterwards.
        run_id: the job's row.

    Raises:
        ConfigError: a graph was wanted and its extra is not installed.
        RegistryError: MLflow does not answer; what was made waits on.
    """
    record, student = waiting.record, waiting.student(registry.encoders_home)
    versions = registry.versions(trained=waiting.mark)
    if versions:
        version = versions[-1]
        run = registry.run_of(version)
        registry.set_alias(CHALLENGER, version)
    else:
        registry.drop_runs(trained=waiting.mark)
        run = registry.log_retrain(
            waiting.parent,
            waiting.candidates,
            project.root.joinpath(record.snapshot.path),
            record.snapshot.fingerprint,
            waiting.tables,
            {**waiting.facts, **record.as_dict()},
        )
        version = registry.register(run, student, waiting.parent.tags[NOTE], waiting.tags)
    policy = _policy_of(store, replace(record.policy, model_version=version), run_id)
    record = replace(record, run_id=run, model_version=version, policy=policy)
    if project.student.onnx:
        attach_onnx(registry, record, student, compared_inputs(project, store, student))
    place = project.root / "retrains" / f"{version}.json"
    said = json.dumps({**waiting.facts, "record": record.as_dict(), "trained_with": waiting.trained_with})
    held_out = place.with_suffix(".heldout.parquet")
    with written_whole(held_out) as beside:
        shutil.copyfile(waiting.held_out, beside)
    with written_whole(place) as beside:
        beside.write_text(said, encoding="utf-8")
    waiting.forget()
    return record


def _policy_of(store: Store, policy: Policy, run_id: int) -> Policy:
    """The version's policy in the store; the one that an interrupted attempt wrote, if it says the same."""
    there = policy_in_force(store, policy.model_version)
    # Traffic since the version before says nothing of what was certified.
    if there is not None and json.dumps(replace(there, id=None, after_request=0).as_dict()) == json.dumps(
        policy.as_dict()
    ):
        return there
    return append_policy(store, policy, run_id)
