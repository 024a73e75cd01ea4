import {
  type ArgumentsHost,
  Catch,
  type ExceptionFilter,
  HttpStatus,
  Inject,
  Logger,
} from '@nestjs/common';
import { HttpAdapterHost } from '@nestjs/core';
import { throwError } from 'rxjs';

import {
  type LockBusyError,
  LockError,
  type LockErrorCode,
  type LockUnavailableError,
} from '../core/errors.js';

/** What a `@Catch` compares with: the lock errors of every copy of this package, as ESM and as CommonJS. */
// Nest compares with `instanceof`, so that it has to be a class.
// oxlint-disable-next-line typescript/no-extraneous-class
abstract class AnyLockError {
  static [Symbol.hasInstance](value: unknown): boolean {
    return LockError.is(value);
  }
}

/** The answer to each error. A public text takes the place of messages about what is behind the application. */
const ANSWERS: Record<
  LockErrorCode,
  { status: HttpStatus; error: string; publicMessage?: string }
> = {
  LOCK_BUSY: { status: HttpStatus.CONFLICT, error: 'Conflict' },
  LOCK_TIMEOUT: { status: HttpStatus.CONFLICT, error: 'Conflict' },
  LOCK_DEADLOCK: { status: HttpStatus.CONFLICT, error: 'Conflict' },
  LOCK_KEY: { status: HttpStatus.BAD_REQUEST, error: 'Bad Request' },
  LOCK_UNAVAILABLE: {
    status: HttpStatus.SERVICE_UNAVAILABLE,
    error: 'Service Unavailable',
    publicMessage: 'Locks are unavailable at the moment. Try again later.',
  },
  LOCK_LOST: {
    status: HttpStatus.INTERNAL_SERVER_ERROR,
    error: 'Internal Server Error',
    publicMessage: 'Internal server error',
  },
  LOCK_CONFIG: {
    status: HttpStatus.INTERNAL_SERVER_ERROR,
    error: 'Internal Server Error',
    publicMessage: 'Internal server error',
  },
  LOCK_SAFETY: {
    status: HttpStatus.INTERNAL_SERVER_ERROR,
    error: 'Internal Server Error',
    publicMessage: 'Internal server error',
  },
};

/** Seconds after which another try is worth while, where nothing better is known. */
const RETRY_AFTER = 1;

/**
 * Answers a request that failed with a lock error.
 *
 * | code | HTTP | |
 * |---|---|---|
 * | LOCK_BUSY, LOCK_TIMEOUT | 409 | with `Retry-After` |
 * | LOCK_DEADLOCK | 409 | |
 * | LOCK_KEY | 400 | |
 * | LOCK_UNAVAILABLE | 503 | with `Retry-After` |
 * | LOCK_LOST, LOCK_CONFIG, LOCK_SAFETY | 500 | logged, and told no more than the code |
 *
 * The body is `{ statusCode, error, code, message }`. RPC callers get `{ status: 'error', code, message }` as their
 * error, WebSocket clients the same as an `exception` event, GraphQL the error itself.
 *
 * The module registers it globally, unless `exceptionFilter: false`. Filters of a controller or a handler
 * (`@UseFilters`) and those of `app.useGlobalFilters` come before it.
 */
@Catch(AnyLockError)
export class RedisLockExceptionFilter implements ExceptionFilter<LockError> {
  private readonly logger = new Logger('RedisLock');

  constructor(@Inject(HttpAdapterHost) private readonly adapterHost: HttpAdapterHost) {}

  catch(exception: LockError, host: ArgumentsHost): unknown {
    // A newer copy of the package may have errors that this one doesn't know.
    const answer = ANSWERS[exception.code] ?? ANSWERS.LOCK_CONFIG;
    if (answer.status === HttpStatus.INTERNAL_SERVER_ERROR) {
      this.logger.error(exception.message, exception.stack);
    }
    const message = answer.publicMessage ?? exception.message;
    const { code } = exception;
    switch (host.getType<string>()) {
      case 'http':
        this.#reply(exception, host, {
          statusCode: answer.status,
          error: answer.error,
          code,
          message,
        });
        return undefined;
      case 'rpc':
        return throwError(() => ({ status: 'error', code, message }));
      case 'ws': {
        const client = host
          .switchToWs()
          .getClient<{ emit?: (event: string, data: unknown) => void }>();
        client.emit?.('exception', { status: 'error', code, message });
        return undefined;
      }
      default:
        // GraphQL reports the error that a filter returns.
        return exception;
    }
  }

  #reply(
    exception: LockError,
    host: ArgumentsHost,
    body: { statusCode: number } & Record<string, unknown>,
  ): void {
    const { httpAdapter } = this.adapterHost;
    const response = host.switchToHttp().getResponse<unknown>();
    if (httpAdapter.isHeadersSent(response)) {
      httpAdapter.end(response);
      return;
    }
    const seconds = retryAfterOf(exception);
    if (seconds !== undefined) httpAdapter.setHeader(response, 'Retry-After', String(seconds));
    httpAdapter.reply(response, body, body.statusCode);
  }
}

function retryAfterOf(exception: LockError): number | undefined {
  switch (exception.code) {
    case 'LOCK_BUSY':
      return Math.max(
        RETRY_AFTER,
        Math.ceil(((exception as LockBusyError).remaining ?? 0) / 1_000),
      );
    case 'LOCK_TIMEOUT':
      return RETRY_AFTER;
    case 'LOCK_UNAVAILABLE':
      return Math.max(
        RETRY_AFTER,
        Math.ceil(((exception as LockUnavailableError).retryAfter ?? 0) / 1_000),
      );
    default:
      return undefined;
  }
}
