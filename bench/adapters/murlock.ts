import { type Adapter, type OpenOptions, POLL_INTERVAL } from './adapter.js';
import { FunctionLocks } from './function-locks.js';
import { rival } from './rival.js';

interface MurLockService {
  runWithLock<T>(key: string, ttl: number, work: () => Promise<T>): Promise<T>;
}

interface MurLock {
  readonly MurLockModule: { forRoot(options: object): object };
  readonly MurLockService: abstract new (...args: never[]) => MurLockService;
}

interface Application {
  get<T>(token: abstract new (...args: never[]) => T): T;
  close(): Promise<void>;
}

interface NestCore {
  readonly NestFactory: {
    createApplicationContext(module: object, options: object): Promise<Application>;
  };
}

class MurLocks extends FunctionLocks {
  readonly #application: Application;
  readonly #service: MurLockService;
  readonly #ttl: number;

  constructor(application: Application, service: MurLockService, ttl: number) {
    super();
    this.#application = application;
    this.#service = service;
    this.#ttl = ttl;
  }

  static async open({ url, ttl }: OpenOptions): Promise<MurLocks> {
    rival('reflect-metadata');
    const { NestFactory } = rival<NestCore>('@nestjs/core');
    const { MurLockModule, MurLockService } = rival<MurLock>('murlock');
    const module = MurLockModule.forRoot({
      redisOptions: { url },
      wait: POLL_INTERVAL,
      maxAttempts: 1,
      blocking: true,
      // 'none' would log everything.
      logLevel: 'error',
    });
    const application = await NestFactory.createApplicationContext(module, { logger: false });
    return new MurLocks(application, application.get(MurLockService), ttl);
  }

  protected under(key: string, work: () => void | Promise<void>): Promise<unknown> {
    return this.#service.runWithLock(key, this.#ttl, async () => work());
  }

  close(): Promise<void> {
    return this.#application.close();
  }
}

export const murlock: Adapter = {
  id: 'murlock',
  title: 'murlock 4.4',
  settings: `runWithLock() of its Nest service; blocking, wait ${POLL_INTERVAL} ms; over node-redis 4`,
  lacks: { renewal: 'it has none', handles: 'it only runs functions' },
  open: (options) => MurLocks.open(options),
};
