// The hospital's page: shows /api/state.

import { lineChart } from "/static/charts.js";
import { NOTHING, bytes, count, element, fillTable, followState, followTheme, score } from "/static/page.js";

const by = (id) => document.getElementById(id);
let state = null;

const when = (text) => (text ? new Date(text).toLocaleString("en-GB") : NOTHING);

function show(now) {
  state = now;
  const { plan, step, out, recent } = now;
  by("phantoms").hidden = !plan?.phantoms;
  by("activity").textContent = step === null ? "waiting for the coordinator"
    : step[1] < step[2] ? `training round ${step[0]}, step ${step[1]} of ${step[2]}`
      : `round ${step[0]} is trained`;
  by("bytes").textContent = bytes(now.bytes_out);
  const held = Object.entries(now.held_back);
  by("held").textContent = count(held.reduce((sum, [, n]) => sum + n, 0));
  by("rules").hidden = held.length === 0;
  fillTable(by("held-back"), held.map(([rule, n]) => [rule, count(n)]));
  by("dice").textContent = score(now.rounds.findLast((r) => r.validation !== undefined)?.validation);
  by("joining").hidden = now.joining === null;
  by("joining").textContent = now.joining ?? "";
  by("last").textContent = when(recent.find((line) => line.direction === "out")?.time);
  const rows = (entries) => entries.map((e) => [e.words, count(e.times), bytes(e.bytes), when(e.last)]);
  fillTable(by("out"), rows(out));
  fillTable(by("in"), rows(now.in));
  by("never").replaceChildren(...now.never.map((text) => element("li", text)));
  fillTable(by("recent"), recent.map((line) => [
    when(line.time), line.direction, line.words, line.round ?? NOTHING, bytes(line.bytes),
    line.refused === null ? line.decision : `held back: ${line.refused}`,
  ]));
  showCharts();
  showPlan(plan, now.plan_digest);
}

function showCharts() {
  const rounds = state.rounds.map(({ round }) => round);
  const line = (name, field) => [{ name, values: state.rounds.map((r) => r[field] ?? null) }];
  lineChart(by("c-dice"), { rounds, series: line("Dice", "validation") });
  lineChart(by("c-seg"), { rounds, series: line("L_seg", "loss_seg") });
}

function showPlan(plan, digest) {
  if (plan === null) return;
  const rows = {
    sites: plan.sites.join(", "), strategy: plan.strategy, network: plan.network,
    rounds: `${plan.rounds} of ${plan.steps_per_round} steps`, blinding: plan.exchange.blinding,
    "SHA-256 of the plan": digest,
  };
  by("plan").replaceChildren(
    ...Object.entries(rows).flatMap(([name, value]) => [element("dt", name), element("dd", String(value))]),
  );
  by("plan-json").textContent = JSON.stringify(plan, null, 2);
}

followTheme(by("theme"), () => state && showCharts());
followState(by("live"), show);
