/** Requests to the replicas: JSON in, JSON out. Bounded, so that a replica that hangs ends the show with an error. */
const TIMEOUT = 60_000;

/** An answer that nobody expected. */
export class AnswerError extends Error {
  name = 'AnswerError';
}

export async function request(method, url, body) {
  const response = await fetch(url, {
    method,
    headers: { 'content-type': 'application/json' },
    body: body === undefined ? undefined : JSON.stringify(body),
    signal: AbortSignal.timeout(TIMEOUT),
  });
  return { status: response.status, body: await response.json() };
}

/** The answer's content. @throws AnswerError unless it's a good one. */
export async function expectJson(method, url, body) {
  const answer = await request(method, url, body);
  if (answer.status < 300) return answer.body;
  throw new AnswerError(`${method} ${url} answered ${answer.status}: ${answer.body.message}`);
}

export const getJson = (url) => expectJson('GET', url);

/** Asks until the answer is what is waited for. */
export async function until(what, timeout, ask) {
  const end = performance.now() + timeout;
  for (;;) {
    const found = await ask();
    if (found) return found;
    if (performance.now() > end) throw new AnswerError(`${what}: not within ${timeout / 1_000} s.`);
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
}
