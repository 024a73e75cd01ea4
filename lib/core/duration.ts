import ms from 'ms';

/**
 * A length of time: a number of milliseconds, or a text such as `'500ms'`, `'30s'`, `'5m'`, `'2h'`, `'1d'`
 * (read by the `ms` package).
 */
export type Duration = number | `${number}${'ms' | 's' | 'm' | 'h' | 'd'}`;

/** Timers of Node overflow beyond this and fire at once, so no duration may exceed it (24.8 days). */
export const LONGEST_DURATION = 2 ** 31 - 1;

/** Milliseconds of a duration, or `undefined` where the value is none. The caller words the error: it knows the option. */
export function millisecondsOf(value: unknown): number | undefined {
  if (typeof value === 'number') return Number.isFinite(value) ? value : undefined;
  // A text without a unit is refused: '10' reads as ten seconds to one and ten milliseconds to another.
  if (typeof value !== 'string' || !/^-?[\d.]+ ?[a-z]+$/i.test(value)) return undefined;
  const milliseconds: number | undefined = ms(value as ms.StringValue);
  return milliseconds !== undefined && Number.isFinite(milliseconds) ? milliseconds : undefined;
}
