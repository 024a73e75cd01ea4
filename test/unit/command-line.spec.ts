/** What a command line asks for, and what is said of a wrong one. */
import { describe, expect, it } from '@jest/globals';
import { readRedisUrl } from '../../lib/cli/redis-url.js';
import { HELP, readCommandLine, UsageError } from '../../lib/cli/command-line.js';

const read = (line: string, env: Record<string, string> = {}) =>
  readCommandLine(line === '' ? [] : line.split(' '), env);

describe('The command line', () => {
  it.each([
    ['list', { kind: 'list', pattern: undefined }],
    ['list order:*', { kind: 'list', pattern: 'order:*' }],
    ['inspect k', { kind: 'inspect', key: 'k' }],
    ['inspect -- -k', { kind: 'inspect', key: '-k' }],
    ['release k', { kind: 'release', key: 'k', reason: undefined, confirmed: false }],
    ['release k -y --reason why', { kind: 'release', key: 'k', reason: 'why', confirmed: true }],
    ['--yes release k', { kind: 'release', key: 'k', reason: undefined, confirmed: true }],
    ['watch', { kind: 'watch', pattern: undefined, interval: 2_000 }],
    ['watch a* --interval 500ms', { kind: 'watch', pattern: 'a*', interval: 500 }],
    ['init-guard', { kind: 'init-guard', confirmed: false }],
    ['init-guard --yes', { kind: 'init-guard', confirmed: true }],
    ['doctor', { kind: 'doctor', guard: false, replicas: undefined, ttl: undefined }],
    [
      'doctor --guard --replicas 2 --ttl 30s',
      { kind: 'doctor', guard: true, replicas: 2, ttl: 30_000 },
    ],
  ])('%s', (line, command) => {
    expect(read(line)).toEqual({
      command,
      urls: ['redis://127.0.0.1:6379'],
      cluster: false,
      prefix: undefined,
      json: false,
    });
  });

  it('takes options before and behind the command', () => {
    expect(read('--json list --prefix shop --cluster --url rediss://u:p@h:1')).toMatchObject({
      json: true,
      prefix: 'shop',
      cluster: true,
      urls: ['rediss://u:p@h:1'],
    });
  });

  it('finds Redis by --url, by REDIS_URL, or on this machine', () => {
    const env = { REDIS_URL: 'redis://by-env' };
    expect(read('list', env)).toMatchObject({ urls: ['redis://by-env'] });
    expect(read('list --url redis://by-option', env)).toMatchObject({
      urls: ['redis://by-option'],
    });
    expect(read('list', { REDIS_URL: '' })).toMatchObject({ urls: ['redis://127.0.0.1:6379'] });
  });

  it('takes the nodes of a quorum, three or more, each by an option of its own', () => {
    const three = 'list --url redis://a --url redis://b --url redis://c';
    expect(read(three)).toMatchObject({ urls: ['redis://a', 'redis://b', 'redis://c'] });
    expect(() => read('list --url redis://a --url redis://b')).toThrow(/2 times.*3 nodes or more/);
    expect(() => read(`${three} --cluster`)).toThrow(/one node tells the others/);
    expect(() => read('list --url redis://a --url redis://b --url c')).toThrow(UsageError);
  });

  it.each([
    ['redis://h', { host: 'h', port: 6_379, tls: false, server: 'h:6379' }],
    ['rediss://u:p%40%25@h:1', { host: 'h', username: 'u', password: 'p@%', tls: true }],
    ['redis://[::1]:7000', { host: '::1', port: 7_000, server: '[::1]:7000' }],
    ['redis://:p@[fe80::1]', { host: 'fe80::1', username: '', password: 'p' }],
  ])('reads the URL %s', (url, read_) => {
    expect(readRedisUrl(url)).toMatchObject(read_);
  });

  it.each(['--help', '-h', 'list --help', 'nonsense -h'])('%s asks for help', (line) => {
    expect(read(line)).toBe('help');
  });

  it('--version asks for the version', () => {
    expect(read('--version')).toBe('version');
  });

  it.each([
    ['', 'command is missing'],
    ['show', "no command 'show'"],
    ['list a b', 'quotes'],
    ['inspect', 'one key, got none'],
    ['inspect a b', 'one key, got 2'],
    ['list --colour', '--colour'],
    ['list -x', '-x'],
    ['list --url', '--url'],
    ['list --json=no', '--json'],
    ['list --yes', 'option of release'],
    ['inspect k --reason why', 'option of release'],
    ['list --interval 5s', 'option of watch'],
    ['watch --interval 5', "such as '500ms'"],
    ['watch --interval 99ms', 'at least 100 ms'],
    ['watch --interval 30d', 'at least 100 ms'],
    ['list --guard', 'option of doctor'],
    ['watch --ttl 5s', 'option of doctor'],
    ['doctor order:42', "takes no 'order:42'"],
    ['doctor --replicas 0', 'whole number from 1'],
    ['doctor --replicas two', 'whole number from 1'],
    ['doctor --ttl 10', "such as '500ms'"],
    ['list --url localhost:6379', 'redis://host:port'],
    ['list --url http://h', 'redis://host:port'],
    ['list --url redis://', 'redis://host:port'],
    ['list --url nonsense', '--url'],
    ['list --url redis://u:50%@h', 'Write %25 for a %'],
    ['list --cluster --url redis://%zz:p@h', 'Write %25 for a %'],
  ])('%j is refused with what to do', (line, remedy) => {
    expect(() => read(line)).toThrow(UsageError);
    expect(() => read(line)).toThrow(remedy);
  });

  it('never shows a URL, which may have a password in it', () => {
    for (const line of ['list --url http://u:secret@h', 'list --url redis://u:secret%@h', 'list']) {
      const thrown = (() => {
        try {
          return read(line, { REDIS_URL: 'htp://u:secret@h' });
        } catch (error) {
          return (error as Error).message;
        }
      })();
      expect(thrown).toEqual(expect.not.stringContaining('secret'));
      expect(thrown).toContain('URL');
    }
  });

  it('has a help of lines that fit a terminal', () => {
    for (const line of HELP.split('\n')) expect(line.length).toBeLessThanOrEqual(100);
  });
});
