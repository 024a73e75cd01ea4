import type { ExecutionContext } from '@nestjs/common';

import type { LockOptions } from '../core/options.js';
import type { ContextKey } from './lock-key.js';

/** How the handlers of a class, or one handler, are guarded by the interceptor: what `@LockKey` notes down. */
export interface HandlerGuard {
  readonly keyOf: ContextKey;
  readonly instance: string | undefined;
  readonly options: LockOptions;
}

const GUARD = Symbol('nestjs-redis-lock.handler-guard');

export function setGuard(target: object, guard: HandlerGuard): void {
  Reflect.defineMetadata(GUARD, guard, target);
}

/** The handler's own guard, or else its class'. */
export function guardOf(context: ExecutionContext): HandlerGuard | undefined {
  const ofHandler = Reflect.getMetadata(GUARD, context.getHandler()) as HandlerGuard | undefined;
  return ofHandler ?? (Reflect.getMetadata(GUARD, context.getClass()) as HandlerGuard | undefined);
}
