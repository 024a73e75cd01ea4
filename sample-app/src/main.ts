/** One replica, as one would run it in production: as many processes as wanted, on one Redis. */
import { startReplica } from './replica.js';

await startReplica(process.env);
