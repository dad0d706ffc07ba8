"""A worker of your own in Python: claims tasks, keeps them by heartbeats, ends them. OSTLER_URL and OSTLER_TOKEN say where."""
import json, os, socket, threading, time, urllib.request

def post(path, body):
    headers = {"Authorization": f"Bearer {os.environ['OSTLER_TOKEN']}", "Content-Type": "application/json"}
    request = urllib.request.Request(os.environ["OSTLER_URL"] + path, json.dumps(body).encode(), headers)
    with urllib.request.urlopen(request, timeout=60) as reply:
        return json.load(reply)

def post_until_taken(path, body):
    while True:
        try:
            return post(path, body)
        except OSError as error:
            print(path, error, flush=True)
            time.sleep(1)
            if getattr(error, "code", 500) < 500:  # 409: it is somebody else's by now
                return None

def beat(task, ended):
    while not ended.wait(task["leaseSeconds"] / 3):
        post_until_taken(f"/api/v1/tasks/{task['id']}/heartbeat", {"claim": task["claim"]})

def run(queues, work):
    ask = {"queues": queues, "worker": f"{socket.gethostname()}/{os.getpid()}", "waitSeconds": 30}
    while True:
        for task in (post_until_taken("/api/v1/claims", ask) or {"items": []})["items"]:
            ended = threading.Event()
            threading.Thread(target=beat, args=(task, ended), daemon=True).start()
            try:
                end = {"result": work(task)}
            except Exception as error:
                end = {"error": repr(error)}  # tried again by the queue's `retry`
            ended.set()
            post_until_taken(f"/api/v1/tasks/{task['id']}/complete", {"claim": task["claim"], **end})

if __name__ == "__main__":
    run(["crawl"], lambda task: {"words": len(task["payload"]["prompt"].split())})
