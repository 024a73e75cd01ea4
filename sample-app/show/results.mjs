/** What the show has found: as a table to read, and as a verdict. */
import { BUYERS, STOCK } from './acts.mjs';

/** How much later than the ttl the takeover may be: a timer, a few round trips, and a busy machine. */
const TAKEOVER_MARGIN = 500;

/**
 * `takeover` is `undefined` where no replica could be killed. What counts is what the lock has promised; what happens
 * without it proves nothing against it.
 */
export function verdict({ unguarded, guarded, takeover, ticks }) {
  const wrong = [];
  if (guarded.oversold > 0) wrong.push(`${guarded.oversold} tickets were oversold under the lock`);
  if (guarded.failed > 0) wrong.push(`${guarded.failed} buyers were refused (${guarded.failure})`);
  if (guarded.sold < STOCK) wrong.push(`only ${guarded.sold} of ${STOCK} tickets were sold`);
  if (takeover && takeover.time > takeover.ttl + TAKEOVER_MARGIN) {
    wrong.push(`the lock of a killed replica was taken over after ${seconds(takeover.time)}`);
  }
  for (const [at, writers] of ticks.entries()) {
    if (writers.length !== 1) wrong.push(`report ${at + 1} was written ${writers.length} times`);
  }
  const luck =
    unguarded.oversold === 0 ? ' (By luck, nothing was oversold without it either.)' : '';
  return {
    good: wrong.length === 0,
    text:
      wrong.length === 0 ? `The lock did what it promises.${luck}` : `WRONG: ${wrong.join('; ')}.`,
  };
}

export function table({ unguarded, guarded, takeover, ticks, clocks }) {
  const bySides = [
    [`Tickets on sale`, STOCK, STOCK],
    [`Buyers at once, over 3 replicas`, BUYERS, BUYERS],
    ['Sold', unguarded.sold, guarded.sold],
    ['Oversold', unguarded.oversold, guarded.oversold],
    ['Told that it is sold out', unguarded.soldOut, guarded.soldOut],
    ['Failed', unguarded.failed, guarded.failed],
    ['Had to wait for the lock', '-', guarded.waited],
    ['Longest wait for the lock', '-', `${Math.round(guarded.longestWait)} ms`],
  ];
  const facts = [
    [
      `Report, every second: written by`,
      ticks.map((names) => names.join('+') || 'none').join('  '),
    ],
    ['', clocks],
    [
      `kill -9 of a replica with a lock`,
      takeover
        ? `${takeover.heir} has it ${seconds(takeover.time)} later (ttl ${seconds(takeover.ttl)})`
        : 'not shown: all replicas are one process',
    ],
  ].filter(([, fact]) => fact !== '');
  const head = ['', 'without the lock', 'with the lock'];
  const first = Math.max(...[...bySides, ...facts].map(([name]) => name.length));
  const sides = head.slice(1).map(({ length }) => length);
  const wide = Math.max(sides[0] + sides[1] + 3, ...facts.map(([, fact]) => fact.length));
  sides[1] = wide - sides[0] - 3;

  const rule = (left, middle, right, ...widths) =>
    left + widths.map((width) => '─'.repeat(width + 2)).join(middle) + right;
  const row = ([name, ...cells], widths) =>
    `│ ${[name.padEnd(first), ...cells.map((cell, at) => String(cell).padStart(widths[at]))].join(' │ ')} │`;
  return [
    rule('┌', '┬', '┐', first, ...sides),
    row(head, sides),
    rule('├', '┼', '┤', first, ...sides),
    ...bySides.map((cells) => row(cells, sides)),
    rule('├', '┴', '┤', first, ...sides).replace('┴', '┼'),
    ...facts.map(([name, fact]) => row([name, fact.padEnd(wide)], [wide])),
    rule('└', '┴', '┘', first, wide),
  ].join('\n');
}

const seconds = (ms) => `${(ms / 1_000).toFixed(2)} s`;
