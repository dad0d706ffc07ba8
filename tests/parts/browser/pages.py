"""pages.py ADDRESS TOKEN FOLDER: looks at every page of the dashboard in a real Chromium, on a phone and on a desktop, by day and by night; leaves
screenshots in FOLDER. Task 1 waits, and there are backends `mlx` and `ollama`, a queue `default`, and an agent `here`, all in `default`."""

import json
import pathlib
import shutil
import sys
import urllib.request

import axe_playwright_python
from playwright.sync_api import sync_playwright

address, token, folder = sys.argv[1], sys.argv[2], pathlib.Path(sys.argv[3])
folder.mkdir(parents=True, exist_ok=True)
axe = (pathlib.Path(axe_playwright_python.__file__).parent / "axe.min.js").read_text()
chromium = shutil.which("chromium")
quiet = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update", "--disable-sync"]
pages = {
    "overview": "/ui",
    "tasks": "/ui/tasks",
    "done": "/ui/tasks?state=completed",
    "task": "/ui/tasks/1",
    "question": "/ui/tasks/confirm?matching=cancel&state=pending&queue=default",
    "calls": "/ui/calls",
    "events": "/ui/events",
    "backends": "/ui/llmbackends",
    "backend": "/ui/llmbackends/default/mlx",
    "queue": "/ui/taskqueues/default/default",
    "agent": "/ui/hostagents/default/here",
    "schedules": "/ui/taskschedules",
}
wrong = []


def ask(path, body):
    headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
    request = urllib.request.Request(address + path, json.dumps(body).encode(), headers)
    with urllib.request.urlopen(request) as answer:
        return json.load(answer)


def listen(page):
    page.on("console", lambda message: wrong.append(f"{page.url}: console: {message.text}"))
    page.on("pageerror", lambda error: wrong.append(f"{page.url}: {error}"))
    return page


def sign_in(context):
    page = listen(context.new_page())
    page.goto(address + ask("/api/v1/links", {})["path"])
    page.get_by_role("button", name="Sign in").click()
    page.wait_for_url("**/ui")
    return page


def check(page, name):
    over = page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
    if over > 0:
        wrong.append(f"{name} scrolls sideways by {over} px")
    page.evaluate(axe)
    found = page.evaluate("axe.run(document, {resultTypes: ['violations']})")
    for violation in found["violations"]:
        if violation["impact"] in ("serious", "critical"):
            wrong.append(f"{name}: {violation['id']}: {violation['nodes'][0]['html'][:200]}")


def look(browser):
    for width, height in ((390, 844), (1440, 900)):
        for scheme in ("light", "dark"):
            context = browser.new_context(viewport={"width": width, "height": height}, color_scheme=scheme)
            page = sign_in(context)
            for name, path in pages.items():
                page.goto(address + path)
                check(page, f"{name} {width} {scheme}")
                page.screenshot(path=folder / f"{name}-{width}-{scheme}.png", full_page=width > 1000)
            context.close()


def stay(browser):
    """While others change what is shown, what somebody has in hand stays."""
    context = browser.new_context(viewport={"width": 390, "height": 844})
    page = sign_in(context)
    page.goto(address + "/ui/tasks")
    field = page.get_by_label("Domain")
    field.focus()
    box = page.get_by_label("Select task").first
    chosen = box.get_attribute("value")
    box.check()
    field.focus()
    page.evaluate("scrollTo(0, 200)")
    before = page.evaluate("scrollY")
    for number in range(20):
        ask("/api/v1/tasks", {"prompt": "later", "domain": "none"})
        page.keyboard.type("x")
        page.wait_for_timeout(150)
    page.get_by_role("button", name="new · show").wait_for(timeout=15_000)
    seen = (field.input_value(), page.evaluate("document.activeElement.name"), page.evaluate("scrollY"), page.locator("input:checked").get_attribute("value"))
    if seen != ("x" * 20, "domain", before, chosen):
        wrong.append(f"what was in hand did not stay: {seen}, scrolled to {before} and chose {chosen}")
    page.get_by_role("button", name="new · show").click()
    page.get_by_text("Task ", exact=False).first.wait_for()
    context.close()


def without_script(browser):
    context = browser.new_context(java_script_enabled=False)
    page = sign_in(context)
    number = ask("/api/v1/tasks", {"prompt": "not wanted", "domain": "none"})["items"][0]["id"]
    page.goto(f"{address}/ui/tasks/{number}")
    page.get_by_role("button", name="Cancel").click()
    page.get_by_text("1 task cancelled.").wait_for()
    context.close()


with sync_playwright() as playwright:
    browser = playwright.chromium.launch(executable_path=chromium, args=quiet)
    look(browser)
    stay(browser)
    without_script(browser)
    browser.close()
for each in dict.fromkeys(wrong):
    print(each)
print(f"ok {len(pages)} pages" if not wrong else f"{len(wrong)} are wrong")
sys.exit(1 if wrong else 0)
