import type { ExecutionContext } from '@nestjs/common';

import { LockConfigError, LockKeyError } from '../core/errors.js';
import { type LockKeys, LockName } from '../core/lock-name.js';

/**
 * Where a lock's key comes from: a text, a template, or a function.
 *
 * A template is a text with placeholders: `'order:{0.id}'` over a method's arguments, `'order:{params.id}'` over a
 * request. It's read once, where the decorator stands; a mistake in it is a `LockConfigError` there. Literal braces
 * are written `{{` and `}}`.
 *
 * A placeholder needs a string, a finite number, a bigint or a boolean. Whatever else is found there (nothing, null, an
 * object, NaN, an empty text) is a `LockKeyError`: put into the key it would make one lock of many. Only properties of
 * the values' own are read.
 *
 * Two different tuples of values never make the same key: `%`, `:` and the first punctuation mark between two
 * placeholders are escaped in the inserted values (`a:b` becomes `a%3Ab`), hence two placeholders need a punctuation
 * mark between them. Values count as their text: `1` and `'1'` are the same.
 */
class LockKeyTemplate {
  private constructor(
    private readonly text: string,
    private readonly literals: readonly string[],
    readonly placeholders: readonly Placeholder[],
    /** What is escaped in the inserted values. */
    private readonly marks: ReadonlySet<string>,
  ) {}

  /**
   * `pathOf` may spell a path as its root needs it.
   * @throws LockConfigError for a text that is no template.
   */
  static parse(text: string, pathOf: (root: string, path: string[]) => string[]): LockKeyTemplate {
    const literals = [''];
    const placeholders: Placeholder[] = [];
    const marks = new Set(['%', ':']);
    const malformed = (what: string) =>
      new LockConfigError(
        `The lock key template ${JSON.stringify(text)} ${what}. Placeholders look like {0.id} or {params.id}; literal braces are written {{ and }}.`,
        'key',
        text,
      );
    for (const [token] of text.matchAll(/\{\{|\}\}|\{[^{}]*\}|[{}]|[^{}]+/g)) {
      const last = literals.length - 1;
      if (token === '{{' || token === '}}') {
        literals[last] += token.charAt(0);
      } else if (token === '{' || token === '}') {
        throw malformed(`has a single ${token}`);
      } else if (token.startsWith('{')) {
        const path = token.slice(1, -1).split('.');
        if (path.some((name) => name === '' || /\s/.test(name)))
          throw malformed(`has the placeholder ${token}`);
        if (placeholders.length > 0) {
          const mark = (literals[last] as string).match(/[^\p{L}\p{N}%]/u)?.[0];
          if (mark === undefined) {
            throw malformed(
              `has no punctuation mark, such as a colon, before ${token} to keep two values apart`,
            );
          }
          marks.add(mark);
        }
        const [root, ...rest] = path as [string, ...string[]];
        placeholders.push({ source: token, root, path: pathOf(root, rest) });
        literals.push('');
      } else {
        literals[last] += token;
      }
    }
    return new LockKeyTemplate(text, literals, placeholders, marks);
  }

  /**
   * The key for one call. `rootOf` finds what a placeholder begins with.
   * @throws LockKeyError that names the template and the placeholder.
   */
  render(rootOf: (name: string) => unknown): string {
    let key = this.literals[0] as string;
    for (const [index, placeholder] of this.placeholders.entries()) {
      key +=
        this.#escaped(this.#valueOf(placeholder, rootOf)) + (this.literals[index + 1] as string);
    }
    return key;
  }

  #valueOf({ source, root, path }: Placeholder, rootOf: (name: string) => unknown): string {
    let value = rootOf(root);
    for (const name of path) {
      value =
        typeof value === 'object' && value !== null && Object.hasOwn(value, name)
          ? (value as Record<string, unknown>)[name]
          : undefined;
    }
    switch (typeof value) {
      case 'string':
        if (value === '') break;
        return value;
      case 'number':
        if (!Number.isFinite(value)) break;
        return String(value);
      case 'bigint':
      case 'boolean':
        return String(value);
      default:
        break;
    }
    throw new LockKeyError(
      `The lock key template ${JSON.stringify(this.text)} needs a value for ${source}, but it is ${found(value)}. It takes a non-empty text, a finite number, a bigint or a boolean.`,
    );
  }

  #escaped(value: string): string {
    let escaped = '';
    for (const character of value)
      escaped += this.marks.has(character) ? encoded(character) : character;
    return escaped;
  }
}

interface Placeholder {
  /** As it's written. */
  readonly source: string;
  readonly root: string;
  readonly path: readonly string[];
}

/** `encodeURIComponent` leaves some punctuation marks as they are. */
function encoded(character: string): string {
  return Buffer.from(character).reduce(
    (text, byte) => `${text}%${byte.toString(16).toUpperCase().padStart(2, '0')}`,
    '',
  );
}

function found(value: unknown): string {
  if (value === undefined) return 'missing';
  if (value === '') return 'empty';
  if (Array.isArray(value)) return 'an array';
  if (typeof value === 'object' && value !== null) return 'an object';
  return typeof value === 'number' || value === null ? String(value) : `a ${typeof value}`;
}

/** Makes the key out of a method's arguments. */
export type ArgumentsKey = (args: readonly unknown[]) => LockKeys;

/** What `@DistributedLock` makes its key with. @throws LockConfigError */
export function keyFromArguments(source: unknown): ArgumentsKey {
  if (typeof source === 'function') {
    return (args) => checkedKey((source as (...args: readonly unknown[]) => unknown)(...args));
  }
  if (Array.isArray(source)) {
    const parts = listed(source).map(
      (part) => keyFromArguments(part) as (args: readonly unknown[]) => string,
    );
    return (args) => parts.map((part) => part(args));
  }
  const template = templateOf(source, '@DistributedLock');
  for (const { root, source: placeholder } of template.placeholders) {
    if (!/^\d+$/.test(root)) {
      throw new LockConfigError(
        `@DistributedLock only sees the method's arguments, by position ({0}, {1.id}): it can't fill ${placeholder} of ${JSON.stringify(source)}. For parts of the request, use @LockKey.`,
        'key',
        source,
      );
    }
  }
  if (template.placeholders.length === 0) {
    const key = staticKey(template, source);
    return () => key;
  }
  return (args) => template.render((index) => args[Number(index)]);
}

/**
 * What `@LockKey` makes its key with: a function of the execution context may be asynchronous.
 */
export type LockKeySource =
  LockKeys | ((context: ExecutionContext) => LockKeys | Promise<LockKeys>);

/** Makes the key out of the execution context of a handler. */
export type ContextKey = (context: ExecutionContext) => Promise<LockKeys>;

/** What the interceptor makes its key with. @throws LockConfigError */
export function keyFromContext(source: unknown): ContextKey {
  if (typeof source === 'function') {
    return async (context) =>
      checkedKey(await (source as (context: ExecutionContext) => unknown)(context));
  }
  if (Array.isArray(source)) {
    const parts = listed(source).map(
      (part) => keyFromContext(part) as (context: ExecutionContext) => Promise<string>,
    );
    return (context) => Promise.all(parts.map((part) => part(context)));
  }
  const template = templateOf(source, '@LockKey', requestPath);
  for (const { root, source: placeholder } of template.placeholders) {
    if (/^\d+$/.test(root)) {
      throw new LockConfigError(
        `@LockKey sees the request, not the handler's arguments: it can't fill ${placeholder} of ${JSON.stringify(source)}. Name a part of the request ({params.id}), or use @DistributedLock.`,
        'key',
        source,
      );
    }
  }
  if (template.placeholders.length === 0) {
    const key = staticKey(template, source);
    return async () => key;
  }
  return async (context) => template.render(rootsOf(context));
}

/**
 * Where the parts of a request are. HTTP: the request's (`params`, `query`, `body`, `headers`, `user`, …). GraphQL:
 * `args`, and the HTTP request's of its context. RPC: `data` and `context`. WebSocket: `data` and `client`.
 */
function rootsOf(context: ExecutionContext): (name: string) => unknown {
  switch (context.getType<string>()) {
    case 'rpc': {
      const rpc = context.switchToRpc();
      return rootOfRecord({ data: rpc.getData<unknown>(), context: rpc.getContext<unknown>() });
    }
    case 'ws': {
      const ws = context.switchToWs();
      return rootOfRecord({ data: ws.getData<unknown>(), client: ws.getClient<unknown>() });
    }
    case 'graphql': {
      // As GqlExecutionContext reads it, without needing @nestjs/graphql: (root, args, context, info).
      const args = context.getArgByIndex<unknown>(1);
      const shared = context.getArgByIndex<{ req?: unknown; request?: unknown } | undefined>(2);
      const ofRequest = rootOfRequest(shared?.req ?? shared?.request);
      return (name) => (name === 'args' ? args : ofRequest(name));
    }
    default:
      return rootOfRequest(context.switchToHttp().getRequest<unknown>());
  }
}

function rootOfRecord(record: Record<string, unknown>): (name: string) => unknown {
  return (name) => (Object.hasOwn(record, name) ? record[name] : undefined);
}

function rootOfRequest(request: unknown): (name: string) => unknown {
  return (name) => {
    // Some of a request's parts are accessors of its prototype (`headers`, Express' `query`), so that here, and here
    // alone, inherited ones count; but not what every object inherits, and no methods.
    if (typeof request !== 'object' || request === null || name in Object.prototype)
      return undefined;
    const part = (request as Record<string, unknown>)[name];
    if (typeof part === 'function') return undefined;
    return part;
  };
}

/** Node gives header names in lower case; a template may write them as the RFCs do. */
function requestPath(root: string, path: string[]): string[] {
  return root === 'headers' ? path.map((name) => name.toLowerCase()) : path;
}

function templateOf(
  source: unknown,
  decorator: string,
  pathOf: (root: string, path: string[]) => string[] = (_root, path) => path,
): LockKeyTemplate {
  if (typeof source !== 'string') {
    throw new LockConfigError(
      `Expected the key of ${decorator} to be a text, a template or a function, got ${found(source)}.`,
      'key',
      source,
    );
  }
  return LockKeyTemplate.parse(source, pathOf);
}

/** A key that is the same for every call is checked at once. */
function staticKey(template: LockKeyTemplate, source: unknown): string {
  const key = template.render(() => undefined);
  try {
    LockName.of('', key);
  } catch (error) {
    throw new LockConfigError(
      error instanceof Error ? error.message : String(error),
      'key',
      source,
      error,
    );
  }
  return key;
}

/** A list of keys holds texts and templates: a function returns a whole list itself. */
function listed(source: readonly unknown[]): readonly unknown[] {
  const wrong = source.find((part) => typeof part !== 'string');
  if (source.length === 0 || wrong !== undefined) {
    throw new LockConfigError(
      `Expected a list of lock keys to hold texts or templates, one at least, got ${source.length === 0 ? 'an empty one' : `one with ${found(wrong)}`}.`,
      'key',
      source,
    );
  }
  return source;
}

function checkedKey(key: unknown): LockKeys {
  if (typeof key === 'string') return key;
  // What is in it, is checked like any key.
  if (Array.isArray(key)) return key as string[];
  throw new LockKeyError(
    `A lock key function must return a text or a list of texts, but it returned ${key instanceof Promise ? 'a promise' : found(key)}.`,
  );
}
