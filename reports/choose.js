"use strict";
// The rule of harness/decide/rule.py written a second time: the page chooses as Python does, from the same facts.
// A browser test runs many policies through both. `hourly` times the price of an hour of hardware.
const decisionRule = (() => {
  const COST = "cost_usd_per_1000", P95 = "e2e_ms/p95";
  const isNone = (v) => v === null || v === undefined;
  const simple = (a, b) => a.rank - b.rank || byText(a.id, b.id);

  // Python orders text by code points, JavaScript by UTF-16 units.
  function byText(a, b) {
    const left = Array.from(a), right = Array.from(b);
    for (let i = 0; i < Math.min(left.length, right.length); i++) {
      if (left[i] !== right[i]) return left[i].codePointAt(0) - right[i].codePointAt(0);
    }
    return left.length - right.length;
  }

  function least(items, order) {
    return items.reduce((best, item) => (best === null || order(item, best) < 0 ? item : best), null);
  }

  function holds(c, policy) {
    return (
      (isNone(policy.min_quality) || c.lowest_quality >= policy.min_quality) &&
      (isNone(policy.max_p95_e2e_ms) || (!isNone(c.p95_ms) && c.p95_ms <= policy.max_p95_e2e_ms)) &&
      (isNone(policy.max_memory_bytes) || (c.memory_bytes || Infinity) <= policy.max_memory_bytes) &&
      (isNone(policy.min_valid) || (!isNone(c.valid) && c.valid >= policy.min_valid))
    );
  }

  function usd(cost, volume, hourly) {
    const once = hourly * (cost.once_usd - cost.labelling_usd) + cost.labelling_usd;
    return hourly * cost.serving_usd_per_1000 + (1000 * once) / volume;
  }

  function score(c, policy, volume, hourly) {
    if (policy.objective === COST) return c.cost ? usd(c.cost, volume, hourly) : Infinity;
    if (policy.objective === P95) return isNone(c.p95_ms) ? Infinity : c.p95_ms;
    return -c.quality;
  }

  function timed(c, policy, hourly) {
    if (policy.objective === COST && c.cost) return hourly * c.cost.serving_usd_per_1000;
    return policy.objective === P95 ? c.p95_ms || 0 : 0;
  }

  function wide(c, facts, policy) {
    const twins = facts.twins[policy.objective];
    const pace = Math.log(twins ? twins.pace : policy.pace) / Math.SQRT2;
    return Math.hypot(policy.objective === COST && c.cost ? Math.log1p(c.cost.spread) : c.p95_spread, pace);
  }

  function counts(c, volume, hourly) {
    return [
      -c.quality, isNone(c.p95_ms) ? Infinity : c.p95_ms, isNone(c.memory_bytes) ? Infinity : c.memory_bytes,
      c.cost ? usd(c.cost, volume, hourly) : Infinity, c.rank,
    ];
  }

  function dominates(a, b, volume, hourly) {
    const left = counts(a, volume, hourly), right = counts(b, volume, hourly);
    return left.some((x, i) => x !== right[i]) && left.every((x, i) => x <= right[i]);
  }

  // The choice and how it came about: which cells hold the limits, the best of them, and which are good enough.
  function judge(facts, policy, hourly = 1) {
    const volume = policy.volume_requests || facts.volume_requests;
    const holding = facts.candidates.filter((c) => holds(c, policy));
    if (!holding.length) return { holding, best: null, good: [], chosen: null, volume };
    const best = least(holding, (a, b) => b.quality - a.quality || simple(a, b));
    const pairs = facts.pairs[best.id] || {};
    const paired = holding.filter((c) => c !== best && pairs[c.id]);
    const shown = [best, ...paired.filter((c) => pairs[c.id].low > -policy.margin)];
    const same = [best, ...paired.filter((c) => pairs[c.id].high >= 0 && pairs[c.id].delta >= -policy.margin)];
    const good = [...shown, ...same.filter((c) => c.rank < best.rank && !shown.includes(c))];
    const ordered = policy.objective === COST || policy.objective === P95;
    const at = (c) => score(c, policy, volume, hourly);
    let front = best, tied = same;
    if (ordered) {
      front = least(good, (a, b) => at(a) - at(b) || simple(a, b));
      const own = (c) => wide(c, facts, policy), part = (c) => timed(c, policy, hourly);
      const bars = [];
      for (const c of [...good].sort((a, b) => at(a) - at(b))) {
        if (!bars.some((b) => part(b) <= part(c) && own(b) <= own(c))) bars.push(c);
      }
      const gap = (a, b) => {
        const far = facts.apart * Math.hypot(own(a), own(b));
        return Math.max(part(a), part(b) * Math.exp(-far)) * Math.expm1(far);
      };
      const behind = (c) => bars.some((b) => at(b) + gap(b, c) < at(c));
      tied = [...new Set([...good, ...same])].filter((c) => !behind(c));
    }
    const able = tied.filter((c) => !ordered || good.includes(c) || c.rank < front.rank);
    let chosen = least(able, (a, b) => a.rank - b.rank || at(a) - at(b) || byText(a.id, b.id));
    for (;;) {
      const better = [best, ...paired].filter((c) => dominates(c, chosen, volume, hourly));
      if (!better.length) break;
      chosen = least(better, (a, b) => at(a) - at(b) || simple(a, b));
    }
    return { holding, best, good, chosen, volume };
  }

  function choose(facts, policy, hourly = 1) {
    const { chosen } = judge(facts, policy, hourly);
    return chosen ? chosen.id : null;
  }

  return { choose, judge, usd };
})();
