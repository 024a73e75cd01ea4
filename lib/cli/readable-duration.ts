const UNITS = [
  { name: 'd', ms: 86_400_000 },
  { name: 'h', ms: 3_600_000 },
  { name: 'min', ms: 60_000 },
  { name: 's', ms: 1_000 },
] as const;

/** A length of time in ms as a person reads it, with its two largest units: `850 ms`, `12.3 s`, `4 min 10 s`, `2 d 1 h`. */
export function readableDuration(milliseconds: number): string {
  const rounded = Math.max(0, Math.round(milliseconds));
  if (rounded < 1_000) return `${rounded} ms`;
  if (rounded < 59_950) return `${(rounded / 1_000).toFixed(1)} s`;
  const seconds = Math.round(rounded / 1_000) * 1_000;
  const at = UNITS.findIndex(({ ms }) => seconds >= ms);
  const [large, small] = [UNITS[at], UNITS[at + 1]];
  if (large === undefined || small === undefined) return `${seconds / 1_000} s`;
  const rest = Math.floor((seconds % large.ms) / small.ms);
  const whole = `${Math.floor(seconds / large.ms)} ${large.name}`;
  return rest === 0 ? whole : `${whole} ${rest} ${small.name}`;
}
