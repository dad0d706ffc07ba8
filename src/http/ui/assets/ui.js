"use strict";
// Keeps a page fresh: asks for it again and changes in place what differs. Without it every page still reads and acts.
(() => {
  const EVERY = 2000;
  const page = document.getElementById("main");
  const banner = document.getElementById("live");
  const zone = Intl.DateTimeFormat().resolvedOptions().timeZone;
  const local = new Intl.DateTimeFormat(undefined, { dateStyle: "medium", timeStyle: "medium" });
  let version = "", skew = 0, held = false, lost = 0, timer = 0, asking = false, force = false;

  // Ages, as the server writes them.
  function age(seconds) {
    const s = Math.max(0, Math.floor(seconds));
    const two = (big, unit, small, its) => big + unit + (small && big < 10 ? small + its : "");
    if (s < 120) return s + "s";
    if (s < 3600) return two(Math.floor(s / 60), "m", s % 60, "s");
    if (s < 86400) return two(Math.floor(s / 3600), "h", Math.floor(s % 3600 / 60), "m");
    return two(Math.floor(s / 86400), "d", Math.floor(s % 86400 / 3600), "h");
  }
  const say = (node, text) => { if (node.textContent !== text) node.textContent = text; };
  function tick() {
    const now = Date.now() + skew;
    for (const time of document.querySelectorAll("time[data-age]")) {
      const passed = (now - Date.parse(time.dateTime)) / 1000;
      say(time, age(time.dataset.age === "since" ? passed : -passed));
    }
    for (const time of document.querySelectorAll("time[data-moment]")) say(time, local.format(new Date(time.dateTime)));
    if (lost) say(banner, `Not live for ${age((Date.now() - lost) / 1000)}: the server does not answer. Trying again.`);
  }

  // Somebody reads, selects or types here: nothing comes or goes meanwhile.
  function inHand(list) {
    const chosen = document.getSelection();
    return list.contains(document.activeElement) || list.querySelector("details[open], input:checked") ||
      (chosen && !chosen.isCollapsed && list.contains(chosen.anchorNode));
  }
  function attributes(old, fresh) {
    for (const { name, value } of [...fresh.attributes])
      if (old.getAttribute(name) !== value && !(name === "open" && old.localName === "details")) old.setAttribute(name, value);
    for (const { name } of [...old.attributes])
      if (!fresh.hasAttribute(name) && !(name === "open" && old.localName === "details")) old.removeAttribute(name);
  }
  function morph(old, fresh) {
    if (old.nodeType !== Node.ELEMENT_NODE) { if (old.data !== fresh.data) old.data = fresh.data; return; }
    // What is in a field is its reader's.
    if (old.matches("input:not([type=hidden]), select, textarea")) return;
    attributes(old, fresh);
    if (old.hasAttribute("data-rows")) {
      if (!force && inHand(old)) return rowsInPlace(old, fresh);
      noteOf(old)?.remove();
    }
    children(old, fresh);
  }
  function rowsInPlace(old, fresh) {
    let come = 0;
    for (const row of fresh.children) {
      const known = row.id && [...old.children].find(child => child.id === row.id);
      if (known) morph(known, row); else come += 1;
    }
    if (come) offer(old, come);
  }
  const isNote = node => node?.nodeType === Node.ELEMENT_NODE && node.matches(".held-note");
  const around = list => list.closest("table") || list;
  function noteOf(list) {
    const before = around(list).previousElementSibling;
    return isNote(before) ? before : null;
  }
  function offer(list, come) {
    let note = noteOf(list);
    if (!note) {
      note = document.createElement("p");
      note.className = "held-note";
      const button = document.createElement("button");
      button.type = "button";
      button.addEventListener("click", () => { force = true; version = ""; refresh(); });
      note.append(button);
      around(list).before(note);
    }
    say(note.firstChild, `${come} new · show`);
  }
  const alike = (a, b) => a.nodeType === b.nodeType && a.nodeName === b.nodeName && (a.id || "") === (b.id || "");
  function children(old, fresh) {
    let next = old.firstChild;
    for (const wanted of [...fresh.childNodes]) {
      if (isNote(next)) next = next.nextSibling;
      const known = wanted.id ? [...old.children].find(child => child.id === wanted.id && child.nodeName === wanted.nodeName) : null;
      const match = known || (next && alike(next, wanted) ? next : null);
      if (!match) { old.insertBefore(document.importNode(wanted, true), next); continue; }
      if (match === next) next = next.nextSibling; else old.insertBefore(match, next);
      morph(match, wanted);
    }
    while (next) { const gone = next; next = next.nextSibling; if (!isNote(gone)) gone.remove(); }
  }

  async function refresh() {
    if (asking) return;
    asking = true;
    clearTimeout(timer);
    try {
      const headers = { "Ostler-Refresh": "1", Accept: "text/html" };
      if (version) headers["If-None-Match"] = version;
      const answer = await fetch(location.href, { headers, cache: "no-store", redirect: "manual", signal: AbortSignal.timeout(4000) });
      const at = Date.parse(answer.headers.get("Date"));
      if (at) skew = Math.abs(at - Date.now()) > 1500 ? at - Date.now() : 0;
      if (answer.status === 401 || answer.type === "opaqueredirect") { location.reload(); return; }
      if (answer.status >= 500) throw new Error(answer.status);
      if (answer.status !== 304) take(await answer.text(), answer.headers.get("ETag") || "");
      lost = 0;
      say(banner, "");
    } catch {
      lost = lost || Date.now();
    } finally {
      asking = false;
      force = false;
      tick();
      show();
      plan();
    }
  }
  function take(text, tag) {
    const fresh = new DOMParser().parseFromString(text, "text/html");
    const main = fresh.getElementById("main");
    if (!main) return;
    version = tag;
    document.title = fresh.title;
    children(page, main);
  }
  function plan() {
    clearTimeout(timer);
    if (!held && !document.hidden) timer = setTimeout(refresh, EVERY);
  }

  const fresh = document.createElement("div");
  const word = document.createElement("span");
  const hold = document.createElement("button");
  function show() {
    fresh.className = "fresh" + (lost ? " lost" : held ? " held" : "");
    say(word, lost ? "Not live" : held ? "Held" : "Live");
    say(hold, held ? "Go on" : "Hold");
  }
  function begin() {
    hold.type = "button";
    hold.className = "plain";
    hold.addEventListener("click", () => { held = !held; show(); if (held) plan(); else refresh(); });
    fresh.append(document.createElement("i"), word, hold);
    if (document.querySelector(".tabs")) {
      document.querySelector(".top").append(fresh);
      document.addEventListener("visibilitychange", () => { if (document.hidden) plan(); else if (!held) refresh(); });
      window.addEventListener("pageshow", event => { if (event.persisted && !held) refresh(); });
      show();
      plan();
    }
    say(document.getElementById("zone"), `Times are in ${zone}`);
    tick();
    setInterval(tick, 1000);
  }
  begin();
})();
