// SPDX-License-Identifier: MIT
// Draws memory and tasks of one build. Rows of tasks are made for what is in sight only, so that their number does not
// matter. All text goes in as text, never as markup; styles are classes, since the page's policy allows no others.
"use strict";
(function () {
  const $ = (id) => document.getElementById(id);
  const build = JSON.parse($("data").textContent);
  const memory = build.memory, tasks = build.tasks, words = build.words;
  const count = tasks.name.length;
  const ROWS_BEYOND = 6;
  const view = { from: 0, to: build.length };
  const ACTS = ["withdraw", "kill", "retry"];
  const HINT = "Choose a row, or step through them with the up and down keys, to see what happened to it. Enter zooms in.";

  // -- words --------------------------------------------------------------------------------------------------------
  function size(mib) {
    if (mib < 0) return "unknown";
    if (mib >= 1023.5) return (mib / 1024).toFixed(1) + " GiB";
    return mib >= 1 ? Math.round(mib) + " MiB" : Math.round(mib * 1024) + " KiB";
  }
  function duration(tenths) {
    const s = Math.max(0, Math.round(tenths / 10));
    if (tenths > 0 && tenths < 99.5) return (tenths / 10).toFixed(1) + " s";
    if (s < 100) return s + " s";
    const two = (n) => String(n).padStart(2, "0");
    if (s < 6000) return Math.floor(s / 60) + ":" + two(s % 60) + " min";
    const minutes = Math.round(s / 60);
    return Math.floor(minutes / 60) + " h " + two(minutes % 60) + " min";
  }
  function clock(tenths, step) {
    const s = Math.round(tenths / 10), h = Math.floor(s / 3600), m = Math.floor(s / 60) % 60;
    const two = (n) => String(n).padStart(2, "0");
    return step && step >= 600 ? h + ":" + two(m) : h + ":" + two(m) + ":" + two(s % 60);
  }
  const name = (row) => words[tasks.name[row]] + " " + words[tasks.task[row]];
  const outcome = (row) => words[tasks.outcome[row]];
  const end = (row) => (tasks.ended[row] < 0 ? build.length : tasks.ended[row]);
  const spans = (of, row) => of[row] || [];
  const total = (of, row) => spans(of, row).reduce((sum, span) => sum + span[1] - span[0], 0);
  const heldFor = new Float64Array(count), first = new Float64Array(count);
  for (let row = 0; row < count; row++) {
    heldFor[row] = total(build.holds, row);
    const hold = spans(build.holds, row)[0];
    first[row] = hold ? hold[0] : tasks.began[row];
  }
  function tell(row) {
    const parts = [];
    if (tasks.began[row] < 0) parts.push("never started");
    else if (tasks.ended[row] < 0) parts.push("began after " + duration(tasks.began[row]) + ", no end is known");
    else parts.push("began after " + duration(tasks.began[row]) + ", ran " + duration(end(row) - tasks.began[row]));
    if (heldFor[row]) parts.push("held " + duration(heldFor[row]) + " (" + words[build.holds[row][0][2]] + ")");
    if (words[tasks.would[row]]) parts.push("would have been held (" + words[tasks.would[row]] + ")");
    if (tasks.jobs[row]) {
      parts.push(tasks.jobs[row] < tasks.wanted[row] ? tasks.jobs[row] + " of " + tasks.wanted[row] + " jobs"
        : tasks.jobs[row] + (tasks.jobs[row] === 1 ? " job" : " jobs"));
    }
    if (tasks.peak[row] >= 0) parts.push("took " + size(tasks.peak[row] / 1024));
    if (tasks.granted[row] >= 0) {
      parts.push("predicted " + size(tasks.granted[row] / 1024) +
        (words[tasks.origin[row]] ? " by " + words[tasks.origin[row]] : ""));
    }
    const stopped = total(build.stops, row);
    if (spans(build.stops, row).length) parts.push("stopped for " + duration(stopped));
    for (const act of spans(build.acts, row)) {
      parts.push(["jobs withdrawn", "killed", "retried"][act[1]] + " after " + duration(act[0]) +
        (words[act[2]] ? " (" + words[act[2]] + ")" : ""));
    }
    parts.push(outcome(row) === "ok" ? "ended well" : "ended: " + outcome(row));
    return name(row) + ": " + parts.join(", ");
  }

  // -- drawing ------------------------------------------------------------------------------------------------------
  function draw(kind, attributes, parent, text) {
    const element = document.createElementNS("http://www.w3.org/2000/svg", kind);
    for (const key in attributes) element.setAttribute(key, attributes[key]);
    if (text !== undefined) element.textContent = text;
    parent.appendChild(element);
    return element;
  }
  function step(length, most) {
    for (const s of [1, 2, 5, 10, 20, 30, 60, 120, 300, 600, 1200, 1800, 3600, 7200, 14400, 28800, 86400]) {
      if (length / (s * 10) <= most) return s;
    }
    return 604800;
  }
  const clear = (element) => { element.textContent = ""; return element; };

  // -- memory -------------------------------------------------------------------------------------------------------
  const chart = $("memory");
  const sides = { left: 62, right: 76, top: 16, bottom: 24 };
  let cursor = -1, dragged = null;
  function chartBox() {
    const width = chart.clientWidth, height = chart.clientHeight;
    return { width, height, x0: sides.left, x1: width - sides.right, y0: height - sides.bottom, y1: sides.top };
  }
  function inView() {
    const time = memory.time;
    let from = 0, to = time.length - 1;
    while (from < to && time[from + 1] < view.from) from++;
    while (to > from && time[to - 1] > view.to) to--;
    return [from, to];
  }
  function drawMemory() {
    if (!chart) return;
    const box = chartBox(), [from, to] = inView();
    const svg = draw("svg", { width: box.width, height: box.height, "aria-hidden": "true" }, clear(chart));
    const clip = draw("clipPath", { id: "inside" }, draw("defs", {}, svg));
    draw("rect", { x: box.x0, y: 0, width: Math.max(0, box.x1 - box.x0), height: box.height }, clip);
    let most = 1;
    for (let i = from; i <= to; i++) most = Math.max(most, memory.used[i], memory.limit[i]);
    most *= 1.04;
    const x = (t) => box.x0 + (t - view.from) / (view.to - view.from) * (box.x1 - box.x0);
    const y = (mib) => box.y0 - mib / most * (box.y0 - box.y1);
    const line = (values, i) => x(memory.time[i]).toFixed(1) + " " + y(values).toFixed(1);
    const lines = sizeSteps(most);
    for (const mib of lines) {
      draw("path", { class: "grid", d: "M" + box.x0 + " " + Math.round(y(mib)) + "H" + box.x1 }, svg);
      draw("text", { class: "end", x: box.x0 - 8, y: y(mib) + 4 }, svg, mib ? size(mib) : "0");
    }
    const seconds = step(view.to - view.from, Math.max(2, (box.x1 - box.x0) / 90));
    for (let t = Math.ceil(view.from / (seconds * 10)) * seconds * 10; t <= view.to; t += seconds * 10) {
      draw("path", { class: "grid", d: "M" + Math.round(x(t)) + " " + box.y1 + "V" + (box.y0 + 4) }, svg);
      if (x(t) < box.x1 - 18) draw("text", { class: "middle", x: x(t), y: box.height - 7 }, svg, clock(t, seconds));
    }
    const inside = draw("g", { "clip-path": "url(#inside)" }, svg);
    // From the ground up: what is no task, other tasks, then the heaviest, the lightest of them first.
    const layers = [["rest", (i) => Math.max(0, memory.used[i] - Math.max(0, memory.tasks[i]))]];
    const parts = (i) => memory.parts.reduce((sum, part) => sum + Math.max(0, part[i]), 0);
    layers.push(["others", (i) => Math.max(0, Math.min(memory.tasks[i], memory.used[i]) - parts(i))]);
    for (let c = memory.parts.length - 1; c >= 0; c--) layers.push(["c" + c, (i) => Math.max(0, memory.parts[c][i])]);
    let below = new Float64Array(to - from + 1);
    for (const [kind, part] of layers) {
      const above = below.map((value, n) => value + part(from + n));
      let path = "", is_there = false;
      for (let i = from; i <= to; i++) { path += (path ? "L" : "M") + line(above[i - from], i); if (part(i)) is_there = true; }
      for (let i = to; i >= from; i--) path += "L" + line(below[i - from], i);
      if (is_there) draw("path", { class: "area " + kind, d: path + "Z" }, inside);
      below = above;
    }
    let top = "", limit = "";
    for (let i = from; i <= to; i++) {
      top += (top ? "L" : "M") + line(memory.used[i], i);
      if (memory.limit[i] >= 0) {
        const level = y(memory.limit[i]).toFixed(1);
        limit += limit ? "H" + x(memory.time[i]).toFixed(1) + "V" + level : "M" + box.x0 + " " + level;
      }
    }
    draw("path", { class: "top", d: top }, inside);
    const levels = [];
    const last = memory.limit[to];
    if (last >= 0) {
      draw("path", { class: "limit", d: limit + "H" + box.x1 }, inside);
      levels.push(["limit", last, "strong"]);
      if (build.reserve > 0 && !build.marks.length) levels.push(["reserve", last - build.reserve, "reserve"]);
    }
    for (const [mark, level] of build.marks) levels.push([mark, level, mark]);
    for (const [, level, kind] of levels) {
      if (kind !== "strong") draw("path", { class: "mark " + kind, d: "M" + box.x0 + " " + y(level) + "H" + box.x1 }, svg);
    }
    labelLevels(levels, y, box, svg);
    if (cursor >= from && cursor <= to) {
      draw("path", { class: "cursor", d: "M" + Math.round(x(memory.time[cursor])) + " " + box.y1 + "V" + box.y0 }, svg);
      draw("circle", { class: "tick", cx: x(memory.time[cursor]), cy: y(memory.used[cursor]), r: 3.5 }, svg);
    }
    if (dragged && Math.abs(dragged[1] - dragged[0]) > 3) {
      draw("rect", { class: "choice", x: Math.min(...dragged), y: box.y1, width: Math.abs(dragged[1] - dragged[0]),
        height: box.y0 - box.y1 }, svg);
    }
  }
  function labelLevels(levels, y, box, svg) {
    // Marks lie close together: the lower ones make room.
    let before = -99;
    for (const [text, level, kind] of levels.sort((a, b) => b[1] - a[1])) {
      const at = Math.max(y(level) + 4, before + 14);
      draw("text", { class: kind === "strong" ? "strong" : "", x: box.x1 + 8, y: at }, svg, text);
      before = at;
    }
  }
  function sizeSteps(most) {
    let unit = 1;
    for (const s of [16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384, 32768, 65536, 131072, 262144, 1048576]) {
      unit = s;
      if (most / s <= 6) break;
    }
    const found = [];
    for (let mib = 0; mib <= most && found.length < 20; mib += unit) found.push(mib);
    return found;
  }
  function drawLegend() {
    const legend = clear($("legend"));
    const entry = (kind, text) => {
      const item = document.createElement("li");
      const key = draw("svg", { class: "key", viewBox: "0 0 24 12", "aria-hidden": "true" }, item);
      draw("rect", { class: kind, x: 0, y: 0, width: 24, height: 12 }, key);
      item.appendChild(document.createTextNode(text));
      legend.appendChild(item);
    };
    memory.coloured.forEach((row, c) => entry("c" + c, name(row)));
    entry("others", "other tasks");
    entry("rest", "BitBake and all else");
  }
  function tellMoment() {
    const told = $("memory-told");
    if (cursor < 0) { told.textContent = ""; return; }
    const parts = [];
    for (let n = 0; n < memory.top[cursor].length; n += 2) {
      parts.push(name(memory.top[cursor][n]) + " " + size(memory.top[cursor][n + 1]));
    }
    const limit = memory.limit[cursor];
    told.textContent = "After " + clock(memory.time[cursor]) + " " + size(memory.used[cursor]) + " used" +
      (limit > 0 ? " (" + Math.floor(100 * memory.used[cursor] / limit) + " %)" : "") +
      (parts.length ? ": " + parts.join(", ") : "; no task");
  }
  function momentAt(px) {
    const box = chartBox();
    const t = view.from + (px - box.x0) / Math.max(1, box.x1 - box.x0) * (view.to - view.from);
    let low = 0, high = memory.time.length - 1;
    while (low < high) { const mid = (low + high) >> 1; if (memory.time[mid] < t) low = mid + 1; else high = mid; }
    if (low > 0 && t - memory.time[low - 1] < memory.time[low] - t) low--;
    return [low, t];
  }
  function zoom(from, to) {
    const least = Math.min(build.length, 50);
    let length = Math.max(least, Math.min(build.length, to - from));
    view.from = Math.max(0, Math.min(build.length - length, (from + to - length) / 2));
    view.to = view.from + length;
    if (chart && memory.time.length && cursor >= 0) {
      const t = memory.time[cursor];
      if (t < view.from || t > view.to) cursor = -1;
    }
    drawMemory(); tellMoment(); choose();
  }
  function zoomBy(factor) {
    const middle = cursor >= 0 ? memory.time[cursor] : (view.from + view.to) / 2;
    const length = (view.to - view.from) * factor;
    const share = (middle - view.from) / (view.to - view.from);
    zoom(middle - length * share, middle + length * (1 - share));
  }
  if (chart) {
    const place = (event) => event.clientX - chart.getBoundingClientRect().left;
    chart.addEventListener("pointermove", (event) => {
      cursor = momentAt(place(event))[0];
      if (dragged) dragged[1] = Math.max(sides.left, Math.min(chart.clientWidth - sides.right, place(event)));
      drawMemory(); tellMoment();
    });
    chart.addEventListener("pointerdown", (event) => {
      if (event.button === 0) { dragged = [place(event), place(event)]; chart.setPointerCapture(event.pointerId); }
    });
    chart.addEventListener("pointerup", () => {
      const chosen = dragged;
      dragged = null;
      if (chosen && Math.abs(chosen[1] - chosen[0]) > 8) {
        zoom(momentAt(Math.min(...chosen))[1], momentAt(Math.max(...chosen))[1]);
      } else drawMemory();
    });
    chart.addEventListener("pointercancel", () => { dragged = null; drawMemory(); });
    chart.addEventListener("keydown", (event) => {
      const [from, to] = inView();
      const moves = { ArrowLeft: -1, ArrowRight: 1, PageUp: -20, PageDown: 20 };
      if (event.ctrlKey || event.metaKey || event.altKey) return;
      if (event.key in moves) {
        cursor = cursor < 0 ? (moves[event.key] > 0 ? from : to) : cursor + moves[event.key];
        cursor = Math.max(from, Math.min(to, cursor));
      } else if (event.key === "Home") cursor = from;
      else if (event.key === "End") cursor = to;
      else if (event.key === "+" || event.key === "=") { zoomBy(0.5); event.preventDefault(); return; }
      else if (event.key === "-") { zoomBy(2); event.preventDefault(); return; }
      else if (event.key === "0" || event.key === "Escape") { zoom(0, build.length); return; }
      else return;
      event.preventDefault();
      drawMemory(); tellMoment();
    });
    $("zoom-in").addEventListener("click", () => zoomBy(0.5));
    $("zoom-out").addEventListener("click", () => zoomBy(2));
    $("zoom-all").addEventListener("click", () => zoom(0, build.length));
  }

  // -- tasks --------------------------------------------------------------------------------------------------------
  const list = $("tasks"), sheet = $("sheet"), axis = $("axis");
  let order = [], chosen = -1, drawn = new Map();
  const isNarrow = () => window.matchMedia("(max-width: 640px)").matches;
  const rowHeight = () => (isNarrow() ? 44 : 24);
  const acted = (row) => spans(build.stops, row).length || spans(build.acts, row).length;
  const kinds = {
    all: () => true,
    held: (row) => build.holds[row] || words[tasks.would[row]],
    shrunk: (row) => tasks.jobs[row] && tasks.jobs[row] < tasks.wanted[row],
    acted,
    failed: (row) => outcome(row) === "failed" || outcome(row) === "memory-kill",
  };
  const firsts = {
    began: (a, b) => first[a] - first[b],
    peak: (a, b) => tasks.peak[b] - tasks.peak[a],
    held: (a, b) => heldFor[b] - heldFor[a],
    ran: (a, b) => (end(b) - Math.max(0, tasks.began[b])) - (end(a) - Math.max(0, tasks.began[a])),
  };
  function choose() {
    const wanted = $("find").value.trim().toLowerCase(), kind = kinds[$("show").value];
    const isWhole = view.from <= 0 && view.to >= build.length;
    order = [];
    for (let row = 0; row < count; row++) {
      if (!isWhole && (end(row) < view.from || first[row] > view.to)) continue;
      if (kind(row) && (!wanted || name(row).toLowerCase().includes(wanted))) order.push(row);
    }
    order.sort((a, b) => firsts[$("order").value](a, b) || a - b);
    $("shown").textContent = order.length === count ? count.toLocaleString("en") + " tasks"
      : order.length.toLocaleString("en") + " of " + count.toLocaleString("en") + " tasks";
    if (chosen < 0 || !order.includes(chosen)) { chosen = -1; $("task-told").textContent = HINT; }
    list.scrollTop = 0;
    redrawRows();
  }
  function redrawRows() {
    drawn.clear();
    clear(sheet);
    sheet.style.height = order.length * rowHeight() + "px";
    if (!order.length) {
      const none = document.createElement("p");
      none.className = "hint name";
      none.textContent = "No task is like that.";
      sheet.appendChild(none);
    }
    drawRows();
    drawAxis();
  }
  function drawRows() {
    const height = rowHeight();
    const from = Math.max(0, Math.floor(list.scrollTop / height) - ROWS_BEYOND);
    const to = Math.min(order.length, Math.ceil((list.scrollTop + list.clientHeight) / height) + ROWS_BEYOND);
    for (const [place, element] of drawn) {
      if (place < from || place >= to) { element.remove(); drawn.delete(place); }
    }
    for (let place = from; place < to; place++) if (!drawn.has(place)) drawn.set(place, drawRow(place, height));
  }
  function barWidth() {
    return Math.max(40, list.clientWidth - (isNarrow() ? 16 : 388));
  }
  function drawRow(place, height) {
    const row = order[place], element = document.createElement("div");
    element.className = "row" + (row === chosen ? " chosen" : "");
    element.id = "task-" + row;
    element.setAttribute("role", "option");
    element.setAttribute("aria-selected", row === chosen ? "true" : "false");
    element.setAttribute("aria-setsize", order.length);
    element.setAttribute("aria-posinset", place + 1);
    element.setAttribute("aria-label", tell(row));
    element.style.top = place * height + "px";
    const label = document.createElement("span"), recipe = document.createElement("b"), taken = document.createElement("span");
    label.className = "name";
    recipe.textContent = words[tasks.name[row]];
    label.append(recipe, " " + words[tasks.task[row]]);
    label.title = name(row);
    taken.className = "size";
    taken.textContent = tasks.peak[row] >= 0 ? size(tasks.peak[row] / 1024) : "";
    element.append(label, taken);
    const wide = barWidth(), tall = isNarrow() ? 18 : 24, middle = tall / 2;
    const svg = draw("svg", { "aria-hidden": "true" }, element);
    const x = (t) => Math.max(-5, Math.min(wide + 5, (t - view.from) / (view.to - view.from) * wide));
    for (const hold of spans(build.holds, row)) {
      draw("path", { class: "held", d: "M" + x(hold[0]).toFixed(1) + " " + middle + "H" + x(hold[1]).toFixed(1) }, svg);
    }
    if (tasks.began[row] >= 0 && end(row) >= view.from && tasks.began[row] <= view.to) {
      const isFailed = kinds.failed(row), a = x(tasks.began[row]);
      draw("rect", { class: isFailed ? "failed" : "ran", x: a.toFixed(1), y: middle - 6,
        width: Math.max(2, x(end(row)) - a).toFixed(1), height: 12, rx: 2 }, svg);
    }
    for (const stop of spans(build.stops, row)) {
      draw("rect", { class: "stopped", x: x(stop[0]).toFixed(1), y: middle - 6,
        width: Math.max(3, x(stop[1]) - x(stop[0])).toFixed(1), height: 12 }, svg);
    }
    for (const act of spans(build.acts, row)) {
      const at = x(act[0]), kind = ACTS[act[1]];
      if (at < 0 || at > wide) continue;
      if (kind === "kill") {
        const cross = `M${at - 4} ${middle - 4}L${at + 4} ${middle + 4}M${at + 4} ${middle - 4}L${at - 4} ${middle + 4}`;
        draw("path", { class: "halo", d: cross }, svg);
        draw("path", { class: "kill", d: cross }, svg);
      } else if (kind === "retry") {
        draw("path", { class: "retry", d: `M${at - 3} ${middle - 5}V${middle + 5}L${at + 5} ${middle}Z` }, svg);
      } else {
        draw("path", { class: "withdraw-act", d: `M${at - 3} ${middle - 10}H${at + 3}L${at} ${middle - 6}Z` }, svg);
      }
    }
    element.addEventListener("click", () => choseRow(place));
    element.addEventListener("dblclick", () => lookCloser(row));
    sheet.appendChild(element);
    return element;
  }
  function drawAxis() {
    const wide = barWidth(), left = isNarrow() ? 0 : 377, svg = clear(axis);
    const seconds = step(view.to - view.from, Math.max(2, wide / 90));
    for (let t = Math.ceil(view.from / (seconds * 10)) * seconds * 10; t <= view.to; t += seconds * 10) {
      const at = left + (t - view.from) / (view.to - view.from) * wide;
      if (at < left + wide - 20) draw("text", { class: at < 16 ? "" : "middle", x: Math.max(1, at), y: 15 }, svg, clock(t, seconds));
    }
  }
  function choseRow(place) {
    const row = order[place], before = drawn.get(order.indexOf(chosen));
    if (before) { before.classList.remove("chosen"); before.setAttribute("aria-selected", "false"); }
    chosen = row;
    const height = rowHeight();
    if (place * height < list.scrollTop) list.scrollTop = place * height;
    if ((place + 1) * height > list.scrollTop + list.clientHeight) list.scrollTop = (place + 1) * height - list.clientHeight;
    drawRows();
    const element = drawn.get(place);
    element.classList.add("chosen");
    element.setAttribute("aria-selected", "true");
    list.setAttribute("aria-activedescendant", element.id);
    $("task-told").textContent = tell(row);
  }
  function lookCloser(row) {
    const from = Math.max(0, first[row]), length = Math.max(50, end(row) - from);
    zoom(from - length * 0.1, from + length * 1.1);
    const place = order.indexOf(row);
    if (place >= 0) choseRow(place);
  }
  list.addEventListener("scroll", () => window.requestAnimationFrame(drawRows), { passive: true });
  list.addEventListener("keydown", (event) => {
    if (!order.length || event.ctrlKey || event.metaKey || event.altKey) return;
    const page = Math.max(1, Math.floor(list.clientHeight / rowHeight()) - 1);
    const moves = { ArrowDown: 1, ArrowUp: -1, PageDown: page, PageUp: -page, Home: -count, End: count };
    const place = order.indexOf(chosen);
    if (event.key in moves) {
      const to = place < 0 ? (event.key === "End" ? order.length - 1 : 0) : place + moves[event.key];
      choseRow(Math.max(0, Math.min(order.length - 1, to)));
    } else if (event.key === "Enter" && place >= 0) lookCloser(chosen);
    else if (event.key === "Escape") zoom(0, build.length);
    else return;
    event.preventDefault();
  });
  for (const id of ["find", "show", "order"]) $(id).addEventListener("input", choose);

  // -- theme --------------------------------------------------------------------------------------------------------
  const themes = ["auto", "light", "dark"], button = $("theme"), root = document.documentElement;
  const kept = { get: () => null, set: () => {} };
  try {
    const store = window.localStorage;
    kept.get = () => store.getItem("memguard-theme");
    kept.set = (theme) => store.setItem("memguard-theme", theme);
    kept.get();
  } catch (refused) { kept.get = () => null; kept.set = () => {}; }
  function dress(theme) {
    if (theme === "auto") root.removeAttribute("data-theme"); else root.setAttribute("data-theme", theme);
    button.textContent = "Theme: " + theme;
    button.dataset.theme = theme;
  }
  button.addEventListener("click", () => {
    const theme = themes[(themes.indexOf(button.dataset.theme) + 1) % themes.length];
    dress(theme);
    try { kept.set(theme); } catch (full) { /* it holds for this page then */ }
  });

  // -- begin --------------------------------------------------------------------------------------------------------
  dress(themes.includes(kept.get()) ? kept.get() : "auto");
  button.hidden = false;
  for (const element of document.querySelectorAll(".needs-script")) element.removeAttribute("hidden");
  if (chart) {
    cursor = memory.used.reduce((most, used, i) => (used > memory.used[most] ? i : most), 0);
    drawLegend(); drawMemory(); tellMoment();
  }
  choose();
  let width = window.innerWidth;
  new ResizeObserver(() => {
    if (width !== window.innerWidth) { width = window.innerWidth; drawMemory(); redrawRows(); }
  }).observe(document.body);
  root.dataset.interactive = Math.round(performance.now());
})();
