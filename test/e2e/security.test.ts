/**
 * Who gets in, as what, and for how long: a server on every address with TLS, tokens and client certificates, and real
 * mounts of it. One server for all tests, in their order; the last one looks at everything that was said meanwhile.
 */
import { mkdirSync, readFileSync, statSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { buildPrograms } from './memory-mount-fixture.ts';
import { readProc, runWeft, SecuredExport } from './secured-export.ts';

const REFUSED_WITHIN_MS = 10_000;

let secured: SecuredExport;
let pin: string[];
const token = { full: '', reader: '', fixed: '', mapped: '', brief: '' };

beforeAll(async () => {
  buildPrograms();
  secured = new SecuredExport();
  token.full = await secured.grant('full');
  token.reader = await secured.grant('reader', '--read-only');
  token.fixed = await secured.grant('fixed', '--identity', '1234:4321');
  token.mapped = await secured.grant('mapped', '--identity', 'map:u1234=2345,g1234=2346');
  token.brief = await secured.grant('brief', '--expires', '0.5');
  await secured.grant('by-certificate', '--certificate', 'laptop');
  const ca = await makeCertificates();
  await secured.serve('--tls-client-ca', ca);
  pin = ['--fingerprint', secured.fingerprint];
  writeFileSync(join(secured.local, 'f'), 'from the server\n');
}, 120_000);

afterAll(async () => {
  await secured?.[Symbol.asyncDispose]();
}, 60_000);

/** A CA, certificates of it for `laptop` and `stranger`, and one that calls itself `laptop` by its own signature. */
async function makeCertificates(): Promise<string> {
  const key = (name: string) => [
    '-newkey',
    'ec',
    '-pkeyopt',
    'ec_paramgen_curve:prime256v1',
    '-nodes',
    '-keyout',
    name,
  ];
  const make = async (name: string, commonName: string, ...issuer: string[]) => {
    const [cert, keyFile] = [secured.at(`${name}.crt`), secured.at(`${name}.key`)];
    const subject = ['-subj', `/CN=${commonName}`, '-days', '2', '-out', cert];
    const { status, stderr } = await secured.openssl('req', '-x509', ...key(keyFile), ...subject, ...issuer);
    if (status !== 0) throw new Error(stderr);
    return cert;
  };
  const ca = await make('ca', 'weft test CA');
  const byCa = ['-CA', ca, '-CAkey', secured.at('ca.key'), '-addext', 'basicConstraints=critical,CA:FALSE'];
  await make('laptop', 'laptop', ...byCa);
  await make('stranger', 'stranger', ...byCa);
  await make('impostor', 'laptop');
  return ca;
}

/** What `command` prints, run as this user of the client, without an error. */
async function as(uid: number, path: string, command: string): Promise<string> {
  const run = `setpriv --reuid ${uid} --regid ${uid} --clear-groups sh -c '${command}'`;
  const { stdout, stderr } = await secured.shell(path, run);
  return stderr === '' ? stdout : stderr;
}

/** Owner and group on the server. */
function ownerOf(name: string): [number, number] {
  const { uid, gid } = statSync(join(secured.local, name));
  return [uid, gid];
}

const certificate = (name: string) => ['--tls-cert', secured.at(`${name}.crt`), '--tls-key', secured.at(`${name}.key`)];

describe('a server with TLS that asks for tokens', () => {
  let full: string;
  let reader: string;

  it('serves who shows a token, and is known by its pinned certificate', async () => {
    full = await secured.mount('full', ['--token-file', token.full, ...pin]);
    const { stdout } = await secured.shell(full, 'cat $M/f; echo new > $M/g; cat $X/g');
    expect(stdout).toBe('from the server\nnew\n');
  });

  it('is asked by weft status in the name of a mount, without another word', async () => {
    const [mount, file] = await Promise.all([runWeft(['status', full]), runWeft(['status', join(full, 'f')])]);
    expect([mount.status, file.status], mount.stderr + file.stderr).toEqual([0, 0]);
    expect(mount.stdout).toContain(`export "/": ${secured.local}`);
    expect(file.stdout).toMatch(/open handles: 0/);
    expect(mount.stdout).not.toContain(readFileSync(token.full, 'utf8').trim());
  });

  it('lets a trusted token say who the user is', async () => {
    expect(await as(1234, full, 'umask 077; echo own > $M/own; cat $M/own')).toBe('own\n');
    expect(await as(1235, full, 'cat $M/own')).toMatch(/Permission denied/);
    expect([ownerOf('own'), ownerOf('g')]).toEqual([
      [1234, 1234],
      [0, 0],
    ]);
  });

  it('says EROFS to a read-only token, here in WEFT_TOKEN', async () => {
    const environment = { WEFT_TOKEN: readFileSync(token.reader, 'utf8').trim() };
    reader = await secured.mount('reader', ['-o', `fingerprint=${secured.fingerprint}`], environment);
    const { stdout, stderr } = await secured.shell(reader, 'cat $M/f; touch $M/h; rm -f $M/f; ls $X');
    expect(stdout).toBe('from the server\nf\ng\nown\n');
    expect(stderr.match(/Read-only file system/g)).toHaveLength(2);
  });

  it('leaves the token in the environment of no process of the mount', () => {
    const processes = secured.processesOf(reader);
    expect(processes).toHaveLength(2);
    for (const pid of processes) {
      const environment = readProc(`${pid}/environ`);
      expect(environment).toContain('PATH=');
      expect(environment).not.toContain(readFileSync(token.reader, 'utf8').trim());
    }
  });

  it('does what a token with a fixed identity asks as that user, whoever asks', async () => {
    writeFileSync(join(secured.local, 'secret'), 'secret\n', { mode: 0o600 });
    const fixed = await secured.mount('fixed', ['--token-file', token.fixed, ...pin]);
    const { stdout, stderr } = await secured.shell(fixed, 'echo mine > $M/mine; cat $M/mine; cat $M/secret');
    expect([stdout, stderr]).toEqual(['mine\n', expect.stringMatching(/secret: Permission denied$/)]);
    expect(ownerOf('mine')).toEqual([1234, 4321]);
    // The file is there for who may read it.
    expect((await secured.shell(full, 'cat $M/secret')).stdout).toBe('secret\n');
  });

  it('does what a token with a table asks as the users of the table, and as nobody for all others', async () => {
    const mapped = await secured.mount('mapped', ['--token-file', token.mapped, ...pin]);
    expect(await as(1234, mapped, 'echo m > $M/m; cat $M/m; mkdir $M/d')).toBe('m\n');
    expect(await as(4000, mapped, 'echo n > $M/n')).toBe('');
    expect((await secured.shell(mapped, 'echo r > $M/r')).stderr).toBe('');
    expect(['m', 'd', 'n', 'r'].map(ownerOf)).toEqual([
      [2345, 2346],
      [2345, 2346],
      [65534, 65534],
      [65534, 65534],
    ]);
  });

  it('serves who shows a certificate that was granted something', async () => {
    const laptop = await secured.mount('laptop', [...certificate('laptop'), ...pin]);
    expect((await secured.shell(laptop, 'cat $M/g')).stdout).toBe('new\n');
  });

  it('is not mounted by anybody else: one line, and soon', async () => {
    writeFileSync(secured.at('wrong.token'), 'weft_wrong\n', { mode: 0o600 });
    const { port, fingerprint, url } = secured;
    const tokens = ['--token-file', token.full];
    const wrongPin = ['--fingerprint', `SHA256:${'A'.repeat(43)}`];
    const nextStep = 'give one that `weft token create` printed on the server, by --token-file or WEFT_TOKEN';
    const rows: [string, string, string[], string][] = [
      [
        'wrong-token',
        url,
        ['--token-file', secured.at('wrong.token'), ...pin],
        `the server does not know this token: ${nextStep}`,
      ],
      ['no-token', url, pin, `the server asks for a token: ${nextStep}`],
      ['impostor', url, [...certificate('impostor'), ...pin], `the server asks for a token: ${nextStep}`],
      [
        'stranger',
        url,
        [...certificate('stranger'), ...pin],
        'the server grants nothing to certificate "stranger": `weft token create NAME --certificate` there',
      ],
      [
        'wrong-pin',
        url,
        [...tokens, ...wrongPin],
        `the server's certificate is not the pinned one: its fingerprint is ${fingerprint}; find out why before you trust it`,
      ],
      [
        'no-pin',
        url,
        tokens,
        "the server's certificate is not trusted (DEPTH_ZERO_SELF_SIGNED_CERT): pin it with --fingerprint, which `weft serve` prints",
      ],
      [
        'no-tls',
        `ws://127.0.0.1:${port}/`,
        tokens,
        'the server hung up; if it wants TLS, write wss:// instead of ws://',
      ],
    ];
    const refuse = async ([name, from, options, line]: (typeof rows)[number]) => {
      const { status, stdout, stderr, tookMs, isMounted } = await secured.tryMount(name, from, options);
      expect([status, stdout, isMounted]).toEqual([1, '', false]);
      expect(stderr).toContain(`weft: 127.0.0.1:${port}: ${line}`);
      expect(stderr.split('\n')).toHaveLength(1);
      expect(tookMs, name).toBeLessThan(REFUSED_WITHIN_MS);
    };
    for (let next = 0; next < rows.length; next += 2) await Promise.all(rows.slice(next, next + 2).map(refuse));
  });

  it('does not listen where others reach it without asking them, or without TLS', async () => {
    const ways = 'or listen on 127.0.0.1, or accept that with --insecure-no-auth';
    const refuse = async (host: string, state: string, line: string) => {
      const at = host.includes(':') ? `[${host}]:0` : `${host}:0`;
      const refused = await runWeft(['serve', secured.local, '--listen', at, '--state', state]);
      expect([refused.status, refused.stdout, refused.stderr]).toEqual([
        1,
        '',
        `weft: ${host} may be reached from other machines, and ${line}, ${ways}`,
      ]);
    };
    await Promise.all([
      refuse('0.0.0.0', secured.at('fresh'), 'nobody is asked who they are: `weft token create NAME` first'),
      refuse('0.0.0.0', secured.state, 'tokens would be sent in clear: add --tls auto'),
      refuse('::', secured.state, 'tokens would be sent in clear: add --tls auto'),
    ]);
  });

  it('ends at once, with one line, where another server listens or its state is damaged', async () => {
    const start = (...options: string[]) => runWeft(['serve', secured.local, ...options]);
    const taken = start('--listen', `127.0.0.1:${secured.port}`, '--state', secured.at('other'));
    const damaged = secured.at('damaged');
    mkdirSync(damaged);
    writeFileSync(join(damaged, 'clients.json'), 'garbage');
    const refusals = await Promise.all([taken, start('--listen', '127.0.0.1:0', '--state', damaged)]);
    const says = [new RegExp(`^weft: 127.0.0.1:${secured.port} is in use`), /^weft: .*clients\.json/];
    for (const [index, { status, stderr }] of refusals.entries()) {
      expect(stderr).toMatch(says[index] as RegExp);
      expect([status, stderr.split('\n').length]).toEqual([1, 1]);
    }
  });

  it('ends the access of a mount whose token expires, and of no other', async () => {
    const brief = await secured.mount('brief', ['--token-file', token.brief, ...pin]);
    expect((await secured.shell(brief, 'cat $M/g; echo b > $M/b; cat $X/b')).stdout).toBe('new\nb\n');
    secured.aDayPasses();
    await expect
      .poll(async () => (await secured.shell(brief, 'cat $M/g')).stderr, { timeout: 30_000 })
      .toMatch(/Permission denied/);
    const { stdout, stderr } = await secured.shell(
      brief,
      'cat $M/g; ls $M; stat $M/b; echo no > $M/b; rm $M/b; cat $X/b',
    );
    expect([stdout, stderr.match(/Permission denied/g)?.length]).toEqual(['b\n', 5]);
    expect((await secured.shell(full, 'cat $M/g')).stdout).toBe('new\n');
    expect(secured.said).toContain('"credential":"brief","msg":"session ended: its credential holds no more"');
    expect(secured.said).toContain('"reason":"\\"brief\\" has expired: give one that `weft token create` printed');
  });

  it('ends the access of a mount whose token is revoked, and of no other', async () => {
    await secured.revoke('full');
    await expect
      .poll(async () => (await secured.shell(full, 'cat $M/f')).stderr, { timeout: 10_000 })
      .toMatch(/Permission denied/);
    const { stdout, stderr } = await secured.shell(full, 'ls $M; echo no > $M/no; ls $X/no');
    expect([stdout, stderr.match(/Permission denied/g)?.length, /No such file/.test(stderr)]).toEqual(['', 2, true]);
    expect((await secured.shell(reader, 'cat $M/g')).stdout).toBe('new\n');
  });

  it('warns of a token file that others may read, and uses it', async () => {
    const open = secured.at('open.token');
    writeFileSync(open, readFileSync(token.reader), { mode: 0o644 });
    const { path, status, stderr } = await secured.tryMount('open', secured.url, ['--token-file', open, ...pin]);
    const warning = `others may read the token file ${open} (mode 644): \`chmod 600 ${open}\``;
    expect([status, stderr]).toEqual([0, `weft: ${warning}`]);
    expect(readFileSync(`${path}.log`, 'utf8')).toContain(warning);
  });

  it('is measured by weft bench overlap', async () => {
    const credentials = ['--token-file', token.mapped, ...pin];
    const few = ['--clients', '2', '--duration', '100ms', '--sizes', '4K', '--json'];
    const { status, stdout, stderr } = await runWeft([
      'bench',
      'overlap',
      '--url',
      secured.url,
      ...credentials,
      ...few,
    ]);
    expect(status, stderr).toBe(0);
    expect(JSON.parse(stdout)).toMatchObject({ passed: true });
  });

  it('keeps its secrets: for their owner only, and out of every output and log', async () => {
    const { state, said, tokens } = secured;
    for (const file of ['grants.json', 'tls.key', 'handle.key']) {
      expect(statSync(join(state, file)).mode & 0o777, file).toBe(0o600);
    }
    // It was said who came, and who was refused; on both sides.
    expect(said).toContain('"credential":"full","msg":"session opened"');
    expect(said).toContain('"msg":"connection refused"');
    expect(said).toContain('"msg":"the server refuses this client"');
    const secrets = [...tokens, 'weft_wrong', ...grantedHashes(), readFileSync(join(state, 'tls.key'), 'utf8')];
    expect(secrets).toHaveLength(5 + 1 + 4 + 1);
    for (const secret of secrets) expect(said).not.toContain(secret.trim());
    expect(readFileSync(join(state, 'grants.json'), 'utf8')).not.toMatch(/weft_/);
  });
});

function grantedHashes(): string[] {
  const { grants } = JSON.parse(readFileSync(join(secured.state, 'grants.json'), 'utf8')) as {
    grants: { hash?: string }[];
  };
  return grants.flatMap(({ hash }) => hash ?? []);
}
