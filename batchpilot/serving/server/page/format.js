// Numbers and limits as people read them. What is not known is a dash, never a zero.

export const known = (value) => value !== null && value !== undefined;

export function number(value, digits = 4) {
  if (!known(value)) return "–";
  const size = Math.abs(value);
  if (size >= 1e6) return value.toLocaleString("en", { notation: "compact", maximumFractionDigits: 1 });
  return value.toLocaleString("en", Number.isInteger(value) || size >= 10 ** (digits - 1)
    ? { maximumFractionDigits: 0 } : { maximumSignificantDigits: digits });
}

export const percent = (share) => !known(share) ? "–" : share > 0 && share < 0.001 ? "< 0.1 %" : `${+(100 * share).toFixed(1)} %`;

export const rate = (perSecond) => number(perSecond, 3);

export const milliseconds = (ms) => !known(ms) ? "–" : ms >= 10000 ? `${number(ms / 1000, 3)} s` : `${number(ms, 3)} ms`;

export function duration(seconds) {
  const s = Math.max(Math.round(seconds), 0);
  if (s < 120) return `${s} s`;
  if (s < 7200) return `${Math.floor(s / 60)} min`;
  return s < 172800 ? `${Math.floor(s / 3600)} h` : `${Math.floor(s / 86400)} days`;
}

const UNITS = { step_target_ms: "ms", max_wait_ms: "ms", ttft_guard: "× target" };

export const limitName = (name) => name.replace(/_ms$/, "").replaceAll("_", " ");

export function limitValue(name, value) {
  if (!known(value)) return "off";
  return typeof value === "number" ? [number(value), UNITS[name]].filter(Boolean).join(" ") : String(value);
}

// A tuner's words, with numbers as long as people read them.
export const tidy = (text) => text.replace(/\d+\.\d{4,}/g, (digits) => number(Number(digits)));

export const limits = (values) => Object.keys(values).filter((name) => known(values[name]))
  .map((name) => `${limitName(name)} ${limitValue(name, values[name])}`).join(", ");

export const changes = (before, after) => Object.keys(after).filter((name) => before[name] !== after[name])
  .map((name) => `${limitName(name)} ${limitValue(name, before[name])} → ${limitValue(name, after[name])}`).join(", ");
