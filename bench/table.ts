/** Rows of text under a head, for a terminal or as Markdown. The first column is set left, the others right. */
export class Table {
  readonly #head: readonly string[];
  readonly #rows: string[][] = [];

  constructor(head: readonly string[]) {
    this.#head = head;
  }

  add(row: readonly string[]): void {
    this.#rows.push(this.#head.map((_, column) => row[column] ?? ''));
  }

  text(): string {
    const lines = [this.#head, ...this.#rows];
    const widths = this.#head.map((_, column) =>
      Math.max(...lines.map((line) => (line[column] ?? '').length)),
    );
    return lines
      .map((line) =>
        line
          .map((cell, column) =>
            column === 0 ? cell.padEnd(widths[column] ?? 0) : cell.padStart(widths[column] ?? 0),
          )
          .join('  ')
          .trimEnd(),
      )
      .join('\n');
  }

  markdown(): string {
    const line = (cells: readonly string[]): string =>
      `| ${cells.map((cell) => cell.replaceAll('|', '\\|')).join(' | ')} |`;
    const rule = this.#head.map((_, column) => (column === 0 ? '---' : '---:'));
    return [line(this.#head), line(rule), ...this.#rows.map(line)].join('\n');
  }
}

/** A figure at its digits, with thousands set apart. */
export function figure(value: number, digits: number): string {
  if (Number.isNaN(value)) return '-';
  if (!Number.isFinite(value)) return '∞';
  return value.toLocaleString('en-US', {
    minimumFractionDigits: digits,
    maximumFractionDigits: digits,
  });
}
