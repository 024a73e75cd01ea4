/**
 * The command line of the project's own programmes (`npm run bench`, `torture`, `simulate`): options alone, no operands.
 *
 *     --help, -h     the usage, exit code 0; nothing is run
 *     wrong          one line that names the option and what it takes, the usage, exit code 2
 *     else           it's run, and says by itself how it ended
 */
import { parseArgs, type ParseArgsConfig } from 'node:util';

/** A wrong command line, told by its message alone. */
export class UsageError extends Error {
  override readonly name = 'UsageError';
}

const USAGE_EXIT_CODE = 2;

export async function runCommandLine(
  usage: string,
  run: (args: readonly string[]) => Promise<void>,
): Promise<void> {
  const args = process.argv.slice(2);
  if (args.includes('--help') || args.includes('-h')) return console.log(usage);
  try {
    await run(args);
  } catch (error) {
    if (!(error instanceof UsageError)) throw error;
    console.error(`${error.message}\n\n${usage}`);
    process.exitCode = USAGE_EXIT_CODE;
  }
}

type Options = NonNullable<ParseArgsConfig['options']>;

export function readOptions<const T extends Options>(args: readonly string[], options: T) {
  try {
    return parseArgs({ args: [...args], options }).values;
  } catch (error) {
    const { code, message } = error as { code?: unknown; message: string };
    if (!String(code).startsWith('ERR_PARSE_ARGS')) throw error;
    throw new UsageError(message);
  }
}

export function wholeNumber(option: string, text: string, least: number): number {
  const number = numberIn(text);
  if (Number.isSafeInteger(number) && number >= least) return number;
  throw new UsageError(`${option} is "${text}"; it takes a whole number from ${least} on.`);
}

export function numberAboveZero(option: string, text: string): number {
  const number = numberIn(text);
  if (Number.isFinite(number) && number > 0) return number;
  throw new UsageError(`${option} is "${text}"; it takes a number above 0.`);
}

/** What stands between commas. */
export function list(text: string | undefined): string[] | undefined {
  return text
    ?.split(',')
    .map((item) => item.trim())
    .filter((item) => item !== '');
}

/** Those of `all` that are named, in the order of `all`; all of them where nothing is. */
export function chosen<T>(
  option: string,
  names: readonly string[] | undefined,
  all: readonly T[],
  nameOf: (one: T) => string,
): readonly T[] {
  if (names === undefined) return all;
  const known = all.map(nameOf);
  const unknown = names.find((name) => !known.includes(name));
  if (unknown !== undefined) {
    throw new UsageError(`${option} names "${unknown}"; there are ${known.join(', ')}.`);
  }
  return all.filter((one) => names.includes(nameOf(one)));
}

/** To JavaScript, nothing is 0. */
function numberIn(text: string): number {
  return text.trim() === '' ? Number.NaN : Number(text);
}
