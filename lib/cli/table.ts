import { cut, visible, widthOf } from './terminal-text.js';

const GAP = '  ';

/**
 * Rows of cells under a header, in columns as wide as what they hold. Where that is more than there's room for, the
 * widest columns give way first.
 */
export function table(
  header: readonly string[],
  rows: readonly (readonly string[])[],
  room: number,
): string[] {
  const lines = [header, ...rows.map((row) => row.map(visible))];
  // Not as arguments of Math.max: there may be more rows than a call takes.
  const widths = header.map((_, column) =>
    lines.reduce((widest, cells) => Math.max(widest, widthOf(cells[column] ?? '')), 0),
  );
  const gaps = GAP.length * (widths.length - 1);
  for (let excess = sum(widths) + gaps - room; excess > 0; excess -= 1) {
    const widest = widths.indexOf(Math.max(...widths));
    if ((widths[widest] as number) <= 1) break;
    widths[widest] = (widths[widest] as number) - 1;
  }
  return lines.map((cells) =>
    cells
      .map((cell, column) => {
        const width = widths[column] as number;
        const shown = cut(cell, width);
        return shown + ' '.repeat(Math.max(0, width - widthOf(shown)));
      })
      .join(GAP)
      .trimEnd(),
  );
}

function sum(numbers: readonly number[]): number {
  return numbers.reduce((a, b) => a + b, 0);
}
