// The coordinator's page: shows /api/state, and asks for a pause, a resume or a stop.

import { lineChart } from "/static/charts.js";
import {
  NOTHING, act, bytes, count, element, fillTable, followState, followTheme, number, score, seconds,
} from "/static/page.js";

const by = (id) => document.getElementById(id);
const operator = document.body.dataset.role === "operator";
let state = null;

function show(now) {
  state = now;
  const { run, sites, rounds, exchange, alerts } = now;
  document.title = `${run.completed}/${run.rounds} – fdfed coordinator`;
  by("phantoms").hidden = !run.phantoms;
  by("alerts").replaceChildren(
    ...alerts.map(({ severity, text }) => element("li", text, { class: `alert ${severity}` })),
  );
  by("activity").textContent = run.paused ? `paused; ${run.activity}` : run.activity;
  by("round").textContent = `${run.completed} of ${run.rounds}`;
  Object.assign(by("progress"), { max: run.rounds, value: run.completed });
  by("phase").textContent = `${run.phase} of 2`;
  by("dice").textContent = score(run.dice);
  const present = sites.filter((site) => !site.missing).length;
  by("present").textContent = `${present} of ${sites.length}`;
  const total = rounds.reduce((sum, { bytes: b }) => sum + b.up + b.down, 0);
  by("traffic").textContent = bytes(total);
  if (operator) {
    by("pause").hidden = run.paused || run.ended;
    by("resume").hidden = !run.paused || run.ended;
    by("stop").hidden = run.ended;
  }
  showSites(sites, rounds);
  showCharts(sites, rounds, run);
  showPairs(sites, rounds);
  showExchange(exchange);
  showPlan(now);
}

function showSites(sites, rounds) {
  const examples = sites.reduce((sum, { num_examples: n }) => sum + (n ?? 0), 0);
  fillTable(by("sites"), sites.map((site) => {
    const scores = rounds.map((r) => r.sites[site.name]?.val_dice ?? null).filter((v) => v !== null);
    const change = scores.length ? scores.at(-1) - Math.max(...scores) : null;
    const share = site.num_examples && examples ? site.num_examples / examples : null;
    return [
      site.name, site.missing ? "missing" : site.stream ? "present, stream open" : "present", count(site.n_train), site.last_round ?? NOTHING,
      score(site.val_dice), change === null ? NOTHING : number(change, 2), number(site.loss_seg),
      number(site.drift), share === null ? NOTHING : `${(share * 100).toFixed(0)} %`,
      seconds(site.seconds), site.note || site.refused || "",
    ];
  }));
}

function showCharts(sites, rounds, run) {
  const numbers = rounds.map(({ round }) => round);
  const bySite = (field) => sites.map(({ name }) => ({
    name, values: rounds.map((r) => r.sites[name]?.[field] ?? null),
  }));
  const taps = Object.keys(rounds.at(-1)?.alpha ?? {});
  const byTap = (read) => taps.map((name) => ({ name, values: rounds.map((r) => read(r, name) ?? null) }));
  const draw = (id, series, more = {}) => lineChart(by(id), { rounds: numbers, series, ...more });
  draw("c-dice", bySite("val_dice"));
  draw("c-seg", bySite("loss_seg"));
  const begins = run.phase_1_rounds < run.rounds
    ? `Begins with phase 2, in round ${run.phase_1_rounds + 1}.` : "Not a part of this run.";
  draw("c-alpha", byTap((r, tap) => (r.phase === 2 ? r.alpha[tap] : null)), { empty: begins });
  draw("c-fd", byTap((r, tap) => r.losses[tap]?.fd), { empty: begins });
  draw("c-exch", byTap((r, tap) => r.losses[tap]?.exch), { empty: begins });
  draw("c-drift", bySite("drift"));
  draw("c-seconds", [{ name: "round", values: rounds.map((r) => r.seconds) }, ...bySite("seconds")]);
  const mega = (direction) => rounds.map((r) => r.bytes[direction] / 1e6);
  draw("c-bytes", [{ name: "up", values: mega("up") }, { name: "down", values: mega("down") }]);
}

/** The matrix of one round and tap; a round that exchanged nothing has none. */
function showPairs(sites, rounds) {
  const known = rounds.filter((r) => Object.keys(r.pairs ?? {}).length > 0);
  by("pairs").hidden = known.length === 0;
  if (known.length === 0) return;
  refill(by("tap"), Object.keys(known.at(-1).alpha), "Bot");
  refill(by("pair-round"), ["newest", ...known.map((r) => String(r.round))], "newest");
  const chosen = by("pair-round").value;
  const record = known.find((r) => String(r.round) === chosen) ?? known.at(-1);
  const tap = by("tap").value;
  const value = (a, b) => (record.pairs[`${a} ${b}`] ?? record.pairs[`${b} ${a}`])?.[tap] ?? null;
  const names = sites.map(({ name }) => name);
  const head = element("tr");
  head.append(element("td"), ...names.map((name) => element("th", name, { scope: "col" })));
  // Lines of the tap's history: each pair over the rounds.
  const pairs = names.flatMap((a, i) => names.slice(i + 1).map((b) => [a, b]));
  lineChart(by("c-pairs"), {
    rounds: known.map((r) => r.round),
    series: pairs.map(([a, b]) => ({
      name: `${a} – ${b}`,
      values: known.map((r) => (r.pairs[`${a} ${b}`] ?? r.pairs[`${b} ${a}`])?.[tap] ?? null),
    })),
  });
  by("matrix").tHead.replaceChildren(head);
  by("matrix").tBodies[0].replaceChildren(...names.map((a) => {
    const row = element("tr");
    row.append(element("th", a, { scope: "row" }));
    row.append(...names.map((b) => element("td", number(value(a, b)), a === b ? { class: "own" } : {})));
    return row;
  }));
}

function refill(select, values, preferred) {
  const old = select.value;
  if ([...select.options].map((o) => o.value).join() !== values.join()) {
    select.replaceChildren(...values.map((v) => element("option", v, { value: v })));
    select.value = values.includes(old) ? old : values.includes(preferred) ? preferred : values[0];
  }
}

function showExchange(exchange) {
  const refused = Object.entries(exchange.refused).map(([code, n]) => [`refused: ${code}`, count(n)]);
  fillTable(by("exchange"), [
    ["frames received", count(exchange.frames_in)],
    ["frames answered", count(exchange.frames_out)],
    ["bytes received", bytes(exchange.bytes_in)],
    ["bytes sent", bytes(exchange.bytes_out)],
    ["steps with every site", count(exchange.steps_complete)],
    ["steps past the deadline", count(exchange.steps_past_deadline)],
    ...refused,
  ]);
}

function showPlan({ run, plan, roster, sites }) {
  const until = Object.entries(roster.certificates)
    .map(([site, end]) => `${site} ${end.slice(0, 10)}`).join(", ");
  const spent = sites.filter((s) => s.privacy)
    .map((s) => `${s.name} ${number(s.privacy.epsilon)}`).join(", ");
  const rows = {
    run: run.id, strategy: run.strategy, loss: run.loss, network: `${run.network}, width ${plan.width ?? "published"}`,
    rounds: `${plan.rounds} of ${plan.steps_per_round} steps, the first ${run.phase_1_rounds} without the discrepancy terms`,
    blinding: plan.exchange.blinding, "aggregation of the weights": plan.aggregation,
    "differential privacy": plan.privacy
      ? `at most ε = ${plan.privacy.epsilon} at each site; spent: ${spent || "nothing yet"}`
      : "none, and no ε is claimed",
    "roster of the consortium": `version ${roster.version}`,
    "certificates valid until": until || NOTHING, "least images behind a score": plan.min_count,
    "SHA-256 of the plan": run.plan_digest,
  };
  by("plan").replaceChildren(
    ...Object.entries(rows).flatMap(([name, value]) => [element("dt", name), element("dd", String(value))]),
  );
  by("plan-json").textContent = JSON.stringify(plan, null, 2);
}

function askFirst({ title, text, word }, path) {
  const dialog = by("confirm");
  by("confirm-title").textContent = title;
  by("confirm-text").textContent = text;
  by("confirm-yes").textContent = word;
  dialog.returnValue = "";
  dialog.showModal();
  dialog.addEventListener("close", () => {
    if (dialog.returnValue === "yes") ask(path);
  }, { once: true });
}

function ask(path) {
  by("failure").textContent = "";
  act(path, (why) => { by("failure").textContent = why; });
}

if (operator) {
  by("pause").addEventListener("click", () => askFirst({
    title: "Pause the run?", word: "Pause",
    text: "The round under way is finished and kept; the next begins when you resume.",
  }, "/api/pause"));
  by("resume").addEventListener("click", () => ask("/api/resume"));
  by("stop").addEventListener("click", () => askFirst({
    title: "Stop the run?", word: "Stop",
    text: "The coordinator ends. Complete rounds are kept, the one under way is trained again when "
      + "fdfed-server start is given again. The sites' agents wait.",
  }, "/api/stop"));
}
for (const id of ["tap", "pair-round"]) {
  by(id).addEventListener("change", () => showPairs(state.sites, state.rounds));
}
followTheme(by("theme"), () => state && showCharts(state.sites, state.rounds, state.run));
followState(by("live"), show);
