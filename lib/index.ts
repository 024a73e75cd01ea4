/**
 * nestjs-redis-lock: distributed locks for NestJS on Redis.
 */

// The module
export { RedisLockModule } from './nest/redis-lock.module.js';
export type {
  RedisLockModuleAsyncOptions,
  RedisLockModuleExtras,
  RedisLockModuleOptions,
  RedisLockOptionsFactory,
} from './nest/redis-lock.options.js';

// The service
export { RedisLockService } from './nest/redis-lock.service.js';
export { getRedisLockToken, InjectRedisLock } from './nest/redis-lock.token.js';

// Guarded methods
export { CurrentLock } from './nest/current-lock.decorator.js';
export { DistributedLock } from './nest/distributed-lock.decorator.js';
export type {
  DistributedLockDecorator,
  KeyFunctionMismatch,
} from './nest/distributed-lock.decorator.js';
export type { GuardOptions } from './nest/guard.options.js';
export { RunOnce } from './nest/run-once.decorator.js';
export type { ScheduledRunOptions } from './nest/run-once.decorator.js';

// Guarded handlers
export { LockKey } from './nest/lock-key.decorator.js';
export type { LockKeySource } from './nest/lock-key.js';
export { RedisLockExceptionFilter } from './nest/redis-lock.exception-filter.js';
export { RedisLockInterceptor } from './nest/redis-lock.interceptor.js';

// The locks themselves, also without Nest
export { Locker } from './core/locker.js';
export type {
  AcquireOptions,
  ForceReleased,
  GuardInitialized,
  InitializeGuardOptions,
  TryAcquireOptions,
  UsingOptions,
} from './core/locker.js';
export type { Duration } from './core/duration.js';
export type { HolderState, LockState, WaiterState } from './core/backend/lock-backend.js';
export type { Access } from './core/access.js';
export type { LockKeys } from './core/lock-name.js';
export type { LeaseState } from './core/lease.js';
export type { Lock, LockReleased } from './core/lock.js';
export type {
  ForceReleaseOptions,
  LockConnection,
  QuorumConnection,
  LockerOptions,
  LockOptions,
  OnBusy,
  QueryOptions,
  ReplicaOptions,
  ServerGuardOptions,
} from './core/options.js';
export type { RunOnceOptions } from './core/run-options.js';
export type { RunInfo, RunOutcome, RunRecord, SkipReason } from './core/run-record.js';
export type { ResultOmitted, RunError, RunState } from './core/backend/run-store.js';
export type {
  DiagnosedOptions,
  Diagnosis,
  FindingSeverity,
  LockFault,
  LockPromise,
  SafetyFinding,
  SafetyLevel,
  SafetyVerdict,
} from './core/safety.js';
export type { Known, LockLayout, ReplicaFacts, ServerFacts, ServerSurvey } from './core/survey.js';
export type {
  GuardReason,
  LockEvent,
  LockEventName,
  LockEvents,
  LockListener,
} from './core/events.js';

// Errors
export {
  LockBusyError,
  LockConfigError,
  LockDeadlockError,
  LockError,
  LockKeyError,
  LockLostError,
  LockSafetyError,
  LockTimeoutError,
  LockUnavailableError,
} from './core/errors.js';
export type {
  ForcedBy,
  LockErrorCode,
  LostReason,
  NodeAnswer,
  UnavailableReason,
} from './core/errors.js';
