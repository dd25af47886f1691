"""What `helm test` runs: creates a small Study, shows its progress until it is complete, and deletes it."""

import json
import os
import sys
import time

from kubernetes import client, config

STUDY_FILE = "/test/study.json"
GROUP, VERSION, PLURAL = "study-operator.io", "v1alpha1", "studies"


def condition(status: dict, kind: str) -> dict:
    """Return the condition of this type, or an empty one."""
    return next((c for c in status.get("conditions", []) if c["type"] == kind), {})


def describe(status: dict) -> str:
    """Return one line on how far the study is."""
    progressing = condition(status, "Progressing")
    words = (status.get("phase", "Pending"), status.get("progress", ""), progressing.get("message", ""))
    return "  ".join(word for word in words if word)


def main() -> int:
    """Return 0 when the study is complete within TIMEOUT_SECONDS, else 1 after saying how it stands."""
    config.load_incluster_config()
    api = client.CustomObjectsApi()
    with open(STUDY_FILE) as file:
        study = json.load(file)
    namespace, name = study["metadata"]["namespace"], study["metadata"]["name"]
    where = (GROUP, VERSION, namespace, PLURAL)

    def delete() -> bool:
        try:
            api.delete_namespaced_custom_object(*where, name)
        except client.ApiException as error:
            if error.status == 404:
                return False
            raise
        return True

    if delete():
        print(f"deleted the Study {namespace}/{name} that an interrupted test had left", flush=True)
    api.create_namespaced_custom_object(*where, study)
    print(f"created the Study {namespace}/{name}", flush=True)
    status, shown = {}, ""
    deadline = time.monotonic() + float(os.environ["TIMEOUT_SECONDS"])
    try:
        while time.monotonic() < deadline:
            status = api.get_namespaced_custom_object(*where, name).get("status", {})
            if describe(status) != shown:
                shown = describe(status)
                print(shown, flush=True)
            if condition(status, "Complete").get("status") == "True":
                print(f"complete; best trial: {json.dumps(status.get('bestTrial'))}")
                return 0
            if condition(status, "Failed").get("status") == "True":
                break
            if condition(status, "Accepted").get("status") == "False":
                break
            time.sleep(1)
    finally:
        delete()
    print(f"the Study did not become complete; its last status:\n{json.dumps(status, indent=2)}")
    if not status:
        print("it has no status at all: is the operator running, and does it serve this namespace?")
    return 1


if __name__ == "__main__":
    sys.exit(main())
