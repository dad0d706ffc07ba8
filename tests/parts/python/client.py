"""client.py ADDRESS TOKEN DIR COUNT: generates a client from the API's own description, submits COUNT tasks with it and reads every result."""

import importlib
import json
import pathlib
import subprocess
import sys
import time
import urllib.request

from openapi_spec_validator import validate

address, token, folder, count = sys.argv[1], sys.argv[2], pathlib.Path(sys.argv[3]), int(sys.argv[4])

with urllib.request.urlopen(f"{address}/api/v1/openapi.json") as answer:
    description = json.load(answer)
validate(description)

folder.mkdir(parents=True, exist_ok=True)
(folder / "openapi.json").write_text(json.dumps(description))
(folder / "config.yaml").write_text("post_hooks: []\nproject_name_override: generated\npackage_name_override: generated\n")
said = subprocess.run(
    [sys.executable, "-m", "openapi_python_client", "generate", "--meta", "none", "--overwrite",
     "--path", str(folder / "openapi.json"), "--config", str(folder / "config.yaml"), "--output-path", str(folder / "generated")],
    capture_output=True, text=True,
)
print(said.stdout, said.stderr)
said.check_returncode()

sys.path.insert(0, str(folder))
generated = importlib.import_module("generated")
models = importlib.import_module("generated.models")


def operation(tag, name):
    return importlib.import_module(f"generated.api.{tag}.{name}")


client = generated.AuthenticatedClient(base_url=address, token=token, timeout=60)
tasks = [
    models.TaskRequest(prompt=f"say {i}", max_tokens=1, key=f"generated-{i}", labels=models.TaskRequestLabels.from_dict({"n": str(i)}))
    for i in range(count)
]
reply = operation("tasks", "submit_tasks").sync(client=client, body=tasks)
assert isinstance(reply, models.InsertReply), reply
assert (reply.inserted, reply.existed) == (count, 0), reply
wanted = {item.id for item in reply.items}
assert len(wanted) == count

one = operation("tasks", "submit_tasks").sync(client=client, body=models.TaskRequest(prompt="once more", key="generated-0"))
assert (one.inserted, one.existed) == (0, 1), one

seen, after, deadline = {}, generated.types.UNSET, time.monotonic() + 300
while wanted - seen.keys():
    assert time.monotonic() < deadline, f"{len(seen)} of {count} results"
    page = operation("tasks", "list_results").sync(client=client, after=after, limit=500, wait=5)
    assert isinstance(page, models.ResultList), page
    for task in page.items:
        assert task.id not in seen, f"{task.id} came twice"
        seen[task.id] = task
    after = page.next_
failed = [task for task in seen.values() if task.state != models.TaskState.COMPLETED or not task.result]
assert not failed, failed[0]

page, listed = operation("tasks", "list_tasks").sync(client=client, limit=300), 0
while True:
    listed += len(page.items)
    if isinstance(page.next_, generated.types.Unset) or page.next_ is None:
        break
    page = operation("tasks", "list_tasks").sync(client=client, limit=300, before=page.next_)
assert listed == count, listed

refused = operation("tasks", "get_task").sync(client=client, id=999_999_999)
assert isinstance(refused, models.ErrorReply) and refused.reason == "NotFound", refused
assert isinstance(operation("resources", "get_status").sync(client=client), models.Overview)
print(f"ok {count} results")
