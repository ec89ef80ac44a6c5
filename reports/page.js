// What moves on the page: filter and sort the cells, try other limits, look at any row. All text goes in as text.
(async () => {
  const byId = (id) => document.getElementById(id);
  async function unpack(text) {
    const bytes = Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
    const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate-raw"));
    const whole = await new Response(stream).text();
    return whole.split("\n").filter(Boolean).map((line) => JSON.parse(line));
  }
  // Where a browser cannot unpack, all that moves stays hidden, and the page is what it is without a script.
  const [data] = await unpack(JSON.parse(byId("data").textContent).deflate);
  const make = (tag, attributes = {}, ...children) => {
    const node = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
    node.append(...children.filter((c) => c !== null));
    return node;
  };
  for (const node of document.querySelectorAll("[data-moves]")) node.hidden = false;

  // ------------------------------------------------------------------------------------------ cells: filter and sort

  const PAGE = 60;
  function cellsTable() {
    const table = byId("all-cells");
    if (!table) return;
    const body = table.tBodies[0];
    const heads = [...table.tHead.rows[0].cells];
    const lines = [...body.rows].map((row) => ({
      row, name: row.dataset.name, state: row.dataset.state,
      values: [...row.cells].slice(2).map((cell) => (cell.dataset.v === "" ? null : Number(cell.dataset.v))),
    }));
    for (const [name, state, values] of data.more_cells) {
      lines.push({ row: null, name, state, shown: values, values: values.map((v) => v[2]) });
    }
    const build = (line) => make("tr", {}, make("th", { scope: "row" }, line.name),
      make("td", { class: "text" }, make("span", { class: `state ${line.state}` }, line.state)),
      ...line.shown.map(([text, interval]) => make("td", {}, make("span", { class: "nw" }, text),
        interval ? make("span", { class: "iv" }, ` ${interval}`) : null)));
    let order = null, up = true, page = 0;
    const states = [...new Set(lines.map((l) => l.state))];
    for (const state of states) byId("cells-state").append(make("option", { value: state }, state));

    function draw() {
      const words = byId("cells-search").value.toLowerCase().split(/\s+/).filter(Boolean);
      const state = byId("cells-state").value;
      const found = lines.filter((l) => (!state || l.state === state) &&
        words.every((w) => l.name.toLowerCase().includes(w)));
      if (order !== null) {
        const key = order === 0 ? (l) => l.name : order === 1 ? (l) => l.state : (l) => l.values[order - 2];
        found.sort((a, b) => {
          const x = key(a), y = key(b);
          if (x === null || y === null) return (x === null) - (y === null);
          return (x < y ? -1 : x > y ? 1 : 0) * (up ? 1 : -1);
        });
      }
      page = Math.max(0, Math.min(page, Math.ceil(found.length / PAGE) - 1));
      const part = found.slice(page * PAGE, (page + 1) * PAGE);
      body.replaceChildren(...part.map((l) => (l.row = l.row || build(l))));
      const range = found.length > PAGE ? `${page * PAGE + 1} to ${page * PAGE + part.length} of ` : "";
      const whole = found.length === lines.length && range ? "" : `${found.length} of `;
      byId("cells-count").textContent = range + whole + `${lines.length} cells`;
      byId("cells-before").disabled = page === 0;
      byId("cells-after").disabled = (page + 1) * PAGE >= found.length;
    }

    heads.forEach((head, at) => {
      const button = make("button", { type: "button", class: "sort" }, ...head.childNodes);
      head.replaceChildren(button);
      button.addEventListener("click", () => {
        up = order === at ? !up : true;
        order = at;
        page = 0;
        heads.forEach((h) => h.removeAttribute("aria-sort"));
        head.setAttribute("aria-sort", up ? "ascending" : "descending");
        draw();
      });
    });
    for (const id of ["cells-search", "cells-state"]) byId(id).addEventListener("input", () => { page = 0; draw(); });
    byId("cells-before").addEventListener("click", () => { page -= 1; draw(); });
    byId("cells-after").addEventListener("click", () => { page += 1; draw(); });
    byId("cells-pages").hidden = lines.length <= PAGE;
    draw();
  }

  // ------------------------------------------------------------------------------------------ another policy

  const above0 = (v, otherwise) => (v > 0 ? Number(v) : otherwise); // an empty field says nothing
  const KNOBS = {
    // name: [value of the control -> value of the policy, and back]
    volume: [(v) => Math.round(10 ** v), (v) => Math.log10(v)],
    hourly: [(v) => above0(v, data.choosing.usd_per_hour), (v) => v],
    floor: [(v) => (v > 0 ? v / 100 : null), (v) => (v === null ? 0 : 100 * v)],
    p95: [(v) => above0(v, null), (v) => (v === null ? "" : v)],
    memory: [(v) => above0(1e6 * v, null), (v) => (v === null ? "" : v / 1e6)],
    margin: [(v) => v / 100, (v) => 100 * v],
  };
  const short = (v) => v.toLocaleString("en", { maximumSignificantDigits: 3 });

  function policyPanel() {
    const form = byId("policy");
    if (!form || !data.choosing) return;
    const { facts, policy } = data.choosing;
    const first = data.carried ? "chosen" : "first by the numbers";
    const order = [first, "highest quality", "good enough", "not shown to be good enough", "breaks a limit"];
    const usual = data.choosing.usd_per_hour;
    const field = (name) => byId(`knob-${name}`);
    const name = (id) => data.called[id] || data.names[id] || id;

    function reset() {
      field("objective").value = policy.objective;
      field("volume").value = KNOBS.volume[1](policy.volume_requests || facts.volume_requests);
      if (field("hourly")) field("hourly").value = usual;
      field("floor").value = KNOBS.floor[1](policy.min_quality);
      field("p95").value = KNOBS.p95[1](policy.max_p95_e2e_ms);
      field("memory").value = KNOBS.memory[1](policy.max_memory_bytes);
      field("margin").value = KNOBS.margin[1](policy.margin);
      touched.clear();
      draw();
    }

    // A control that was not touched keeps the policy's own number, which its steps may round.
    const touched = new Set();
    const read = (knob, own) => (touched.has(knob) ? KNOBS[knob][0](field(knob).value) : own);
    function said(knob, text) {
      byId(`said-${knob}`).textContent = text;
      field(knob).setAttribute("aria-valuetext", text);
    }

    function draw() {
      const own = {
        ...policy, objective: field("objective").value,
        volume_requests: read("volume", policy.volume_requests || facts.volume_requests),
        min_quality: read("floor", policy.min_quality), max_p95_e2e_ms: read("p95", policy.max_p95_e2e_ms),
        max_memory_bytes: read("memory", policy.max_memory_bytes), margin: read("margin", policy.margin),
      };
      const price = field("hourly") ? read("hourly", usual) : null;
      const hourly = price === null ? 1 : price / usual;
      const found = decisionRule.judge(facts, own, hourly);
      said("volume", short(own.volume_requests));
      said("floor", own.min_quality === null ? "none" : `${short(100 * own.min_quality)}%`);
      said("margin", `${short(100 * own.margin)} points`);
      const chosen = found.best && found.best.quality ? found.chosen : null;
      // Rounded up, so that what is shown can be typed as a limit and the cell holds it.
      const p95 = (c) => `${wording.above(c.p95_ms, wording.digits(c.p95_ms))} ms`;
      const cost = (c) => (c.cost ? decisionRule.usd(c.cost, found.volume, hourly) : null);
      byId("choice").textContent = chosen
        ? `${name(chosen.id)}: quality ${wording.share(chosen.quality)}` +
          (chosen.p95_ms === null ? "" : `, p95 ${p95(chosen)}`) +
          (chosen.cost ? `, ${wording.usd(cost(chosen))} per 1,000 requests` : "")
        : found.best ? "No cell within these limits got a row right." : "No cell holds these limits.";
      byId("choice").dataset.cell = chosen ? chosen.id : "";
      const why = (c) => {
        if (c === chosen) return first;
        if (!found.holding.includes(c)) return "breaks a limit";
        if (!found.good.includes(c)) return "not shown to be good enough";
        return c === found.best ? "highest quality" : "good enough";
      };
      const lines = facts.candidates.map((c) => [c, why(c)])
        .sort((a, b) => order.indexOf(a[1]) - order.indexOf(b[1]));
      byId("choice-cells").replaceChildren(...lines.slice(0, PAGE).map(([c, said]) => make("tr",
        c === chosen && data.carried ? { class: "picked" } : {}, make("th", { scope: "row" }, name(c.id)),
        make("td", { class: "text" }, said), make("td", {}, wording.share(c.quality)),
        make("td", {}, c.p95_ms === null ? "–" : p95(c)),
        make("td", {}, c.memory_bytes === null ? "–" : `${wording.above(c.memory_bytes / 1e6, 0)} MB`),
        make("td", {}, c.cost ? wording.usd(cost(c)) : "–"))));
      byId("choice-more").textContent = lines.length > PAGE ? `${lines.length - PAGE} more cells are not listed.` : "";
    }

    form.addEventListener("input", (event) => { touched.add(event.target.id.replace("knob-", "")); draw(); });
    form.addEventListener("submit", (event) => event.preventDefault());
    form.addEventListener("reset", (event) => { event.preventDefault(); reset(); });
    reset();
  }

  // ------------------------------------------------------------------------------------------ any row, all cells

  // Which words of `right` stand not in `left`, in order: the longest common subsequence of words.
  function marked(left, right) {
    const a = left.match(/\s+|\S+/g) || [], b = right.match(/\s+|\S+/g) || [];
    if (a.length * b.length > 1e6) return [[right, false]];
    const long = Array.from({ length: a.length + 1 }, () => new Uint32Array(b.length + 1));
    for (let i = a.length - 1; i >= 0; i--) {
      for (let j = b.length - 1; j >= 0; j--) {
        long[i][j] = a[i] === b[j] ? long[i + 1][j + 1] + 1 : Math.max(long[i + 1][j], long[i][j + 1]);
      }
    }
    const pieces = [];
    for (let i = 0, j = 0; j < b.length;) {
      if (i < a.length && a[i] === b[j]) { pieces.push([b[j++], false]); i++; }
      else if (i < a.length && long[i + 1][j] >= long[i][j + 1]) i++;
      else { pieces.push([b[j], /\S/.test(b[j])]); j++; }
    }
    return pieces;
  }

  async function rowViewer() {
    const packed = data.packed;
    if (!packed || !byId("viewer")) return;
    const rows = await unpack(packed.deflate);
    const names = packed.cells.map((id) => data.names[id] || id);
    for (const [at, label] of names.entries()) byId("row-against").append(make("option", { value: at }, label));
    for (const name of new Set(rows.map((r) => r.case).filter(Boolean))) {
      byId("row-case").append(make("option", { value: name }, name));
    }
    let place = 0, first = 0;
    const WIDE = 12; // cells beside each other at once

    function draw() {
      const words = byId("row-search").value.toLowerCase();
      const kind = byId("row-kind").value, only = byId("row-case").value;
      const found = rows.filter((r) => (!only || r.case === only) &&
        (!words || r.id.toLowerCase().includes(words) || r.prompt.toLowerCase().includes(words) ||
          r.texts.some((t) => t.toLowerCase().includes(words))) &&
        (kind !== "differ" || r.texts.length > 1) && (kind !== "missed" || r.missed.some((m) => m.length)));
      place = Math.max(0, Math.min(place, found.length - 1));
      byId("row-count").textContent = found.length ? `Row ${place + 1} of ${found.length}` : "No row is like that";
      byId("row-before").disabled = place === 0;
      byId("row-after").disabled = place >= found.length - 1;
      const row = found[place], box = byId("row-answers");
      byId("row-expected").textContent = row ? row.expected : "";
      byId("row-reply").hidden = !row || !row.expected;
      if (!row) { box.replaceChildren(); byId("row-prompt").textContent = ""; byId("row-id").textContent = ""; return; }
      byId("row-id").textContent = row.case ? `${row.id} · ${row.case}` : row.id;
      byId("row-prompt").textContent = row.prompt;
      const against = byId("row-against").value;
      const base = against === "" || row.of[against] < 0 ? null : row.texts[row.of[against]];
      const have = names.map((_, at) => at).filter((at) => row.of[at] >= 0);
      first = Math.max(0, Math.min(first, have.length - 1));
      first -= first % WIDE;
      box.replaceChildren(...have.slice(first, first + WIDE).map((at) => {
        const text = row.texts[row.of[at]];
        const pre = make("pre", { dir: "auto", tabindex: "0", role: "group", "aria-label": `Answer of ${names[at]}` });
        if (base === null || String(at) === against) pre.textContent = text;
        else pre.append(...marked(base, text).map(([piece, other]) => (other ? make("ins", {}, piece) : piece)));
        const missed = row.missed[at].map((n) => packed.scores[n]);
        return make("article", { class: "answer" },
          make("header", {}, make("b", {}, names[at])), pre,
          make("footer", {}, missed.length
            ? make("span", { class: "miss" }, `✗ misses ${missed.join(", ")}`)
            : make("span", { class: "pass" }, "✓ passes every score"), row.cut[at] ? " · cut off" : null));
      }));
      byId("row-pages").hidden = have.length <= WIDE;
      byId("row-cells").textContent = `cells ${first + 1} to ${Math.min(first + WIDE, have.length)} of ${have.length}`;
      byId("row-left").disabled = first === 0;
      byId("row-right").disabled = first + WIDE >= have.length;
    }

    for (const id of ["row-search", "row-kind", "row-case", "row-against"]) {
      byId(id).addEventListener("input", () => { place = id === "row-against" ? place : 0; draw(); });
    }
    const step = (id, move) => byId(id).addEventListener("click", () => { move(); draw(); });
    step("row-before", () => { place -= 1; });
    step("row-after", () => { place += 1; });
    step("row-left", () => { first -= WIDE; });
    step("row-right", () => { first += WIDE; });
    draw();
  }

  cellsTable();
  policyPanel();
  await rowViewer();
  document.documentElement.dataset.ready = "";
})();
