/** What a client keeps under leases, and which replies it takes in. */
import { beforeEach, describe, expect, test } from 'vitest';
import { LeaseCache } from '../../client-fuse/leases/lease-cache.ts';
import type { Node, OpenHandle } from '../../client-fuse/vfs/node.ts';
import { NodeTable } from '../../client-fuse/vfs/node-table.ts';
import type { Attributes } from '../../shared/attributes.ts';

let table: NodeTable;
let cache: LeaseCache;
let isUsable: boolean;
let directory: Node;
let file: Node;

const times = { atime: { sec: 9, nsec: 0 }, mtime: { sec: 1, nsec: 0 }, ctime: { sec: 1, nsec: 5 } };
const attributes = (size: number, more: Partial<Attributes> = {}) => ({ size, ...times, ...more }) as Attributes;
const sizeOf = (node: Node) => cache.attributes(node)?.size;

beforeEach(() => {
  table = new NodeTable(Buffer.from('root'));
  directory = table.root;
  file = table.found(Buffer.from('file'));
  isUsable = true;
  cache = new LeaseCache(() => isUsable);
});

const beginAndEnd = () => {
  cache.beginChange(file);
  cache.endChange(file);
};

/** What happens between the sending of a request and its reply, and whether the reply is taken in then. */
const between: [what: string, event: () => void, attributesOfFile: boolean, nameInDirectory: boolean][] = [
  ['nothing', () => {}, true, true],
  ['the file is recalled', () => cache.recall([file]), false, true],
  ['the directory is recalled', () => cache.recall([directory]), true, false],
  ['an unknown inode is recalled', () => cache.recall([undefined]), false, false],
  ['the connection is lost', () => cache.clear(), false, false],
  ['the file is changed', () => cache.changed(file), false, true],
  ['a change of the file begins', () => cache.beginChange(file), false, true],
  ['a change of the file ends', beginAndEnd, false, true],
  ['another name is made', () => cache.changingName(directory, 'other'), true, false],
  ['another file is recalled', () => cache.recall([table.found(Buffer.from('another'))]), true, true],
];

describe('who has opened a file need not ask again', () => {
  const opened = (event: () => void) => {
    cache.learnAttributes(file, attributes(1), true, cache.clock);
    const asOf = cache.clock;
    event();
    cache.learnOpener(file, 'somebody', asOf);
    return cache.mayOpen(file, 'somebody');
  };

  test.each([
    ['nothing', () => {}, true],
    ['a change of the file begins', () => cache.beginChange(file), false],
    ['a change of the file begins and ends', beginAndEnd, false],
    ['the file is recalled', () => cache.recall([file]), false],
  ])('unless something happened since the server was asked: %s', (_what, event, may) => {
    expect(opened(event)).toBe(may);
  });

  test('but while a name is removed that may be of any file', () => {
    expect(opened(() => {})).toBe(true);
    cache.beginChange(undefined);
    expect(cache.mayOpen(file, 'somebody')).toBe(false);
    cache.endChange(undefined);
    expect(cache.mayOpen(file, 'somebody')).toBe(true);
  });
});

describe('what is read of a file is kept', () => {
  const covered = () => {
    const asOf = cache.clock;
    cache.learnAttributes(file, attributes(1), true, asOf);
    cache.learnCoversData(file, asOf);
    return cache.coversData(file);
  };

  test('when the server said so, and while the lease is held', () => {
    cache.learnAttributes(file, attributes(1), true, cache.clock);
    expect([cache.isHeld(file), cache.coversData(file)]).toEqual([true, false]);
    expect(covered()).toBe(true);
    isUsable = false;
    expect(cache.coversData(file)).toBe(false);
  });

  const ends: [what: string, event: () => void][] = [
    ['its recall', () => cache.recall([file])],
    ['the loss of the connection', () => cache.clear()],
    ['its opening to write', () => cache.opensToWrite(file)],
  ];
  test.each(ends)('until %s; what was said before that does not count any more', (_what, event) => {
    expect(covered()).toBe(true);
    const asOf = cache.clock;
    event();
    cache.learnAttributes(file, attributes(1), true, cache.clock);
    cache.learnCoversData(file, asOf);
    expect(cache.coversData(file)).toBe(false);
  });

  describe('has been all the while', () => {
    test('when nothing happened to the file', () => {
      expect(covered()).toBe(true);
      const asOf = cache.clock;
      cache.changed(directory);
      expect(cache.hasCovered(file, asOf)).toBe(true);
      isUsable = false;
      expect(cache.hasCovered(file, asOf)).toBe(false);
    });

    const events: [what: string, event: () => void][] = [
      ['its recall', () => cache.gaveBack(cache.recall([file]).nodes)],
      ['the loss of the connection', () => cache.clear()],
      ['its opening to write', () => cache.opensToWrite(file)],
      ['an own change', () => cache.endChange(file, cache.beginChange(file))],
    ];
    test.each(events)('not over %s, though it is again', (_what, event) => {
      expect(covered()).toBe(true);
      const asOf = cache.clock;
      event();
      expect(covered()).toBe(true);
      expect([cache.hasCovered(file, asOf), cache.hasCovered(file, cache.clock)]).toEqual([false, true]);
    });

    test('not during an own change', () => {
      expect(covered()).toBe(true);
      cache.beginChange(file);
      expect([cache.coversData(file), cache.hasCovered(file, cache.clock)]).toEqual([true, false]);
    });
  });

  test('over own writes, which the server knows of', () => {
    expect(covered()).toBe(true);
    cache.changed(file);
    expect(cache.coversData(file)).toBe(true);
  });
});

describe('a reply is taken in only if nothing happened since its request was sent', () => {
  test.each(between)('%s', (_what, event, takesAttributes, takesName) => {
    const asOf = cache.clock;
    event();
    cache.learnAttributes(file, attributes(1), true, asOf);
    cache.learnName(directory, 'name', file, true, asOf);
    expect(sizeOf(file)).toBe(takesAttributes ? 1 : undefined);
    expect(cache.name(directory, 'name')).toBe(takesName ? file : undefined);
  });

  test.each(between)('what was known before: %s', (_what, event, keepsAttributes) => {
    cache.learnAttributes(file, attributes(1), true, cache.clock);
    event();
    const isUnknownRecall = keepsAttributes === false && cache.attributes(file) !== undefined;
    // An inode that this client does not know is none that it knows something of.
    expect(sizeOf(file)).toBe(keepsAttributes || isUnknownRecall ? 1 : undefined);
    expect(isUnknownRecall).toBe(_what === 'an unknown inode is recalled');
  });

  test('without a lease nothing is', () => {
    cache.learnAttributes(file, attributes(1), false, cache.clock);
    cache.learnName(directory, 'name', null, false, cache.clock);
    expect([cache.attributes(file), cache.name(directory, 'name')]).toEqual([undefined, undefined]);
  });

  test('while an own change is under way nothing is, though it was asked for later', () => {
    cache.beginChange(file);
    cache.beginChange(file);
    cache.learnAttributes(file, attributes(1), true, cache.clock);
    expect(sizeOf(file)).toBeUndefined();
    cache.endChange(file);
    cache.learnAttributes(file, attributes(2), true, cache.clock);
    expect(sizeOf(file)).toBeUndefined();
    cache.endChange(file);
    cache.learnAttributes(file, attributes(3), true, cache.clock);
    expect(sizeOf(file)).toBe(3);
  });
});

test('while an own change of whatever a name means is under way, no attributes are used', () => {
  cache.learnAttributes(file, attributes(1), true, cache.clock);
  cache.beginChange(null); // known to be absent: it changes nothing else
  expect(sizeOf(file)).toBe(1);
  cache.beginChange(undefined);
  expect(sizeOf(file)).toBeUndefined();
  cache.endChange(null);
  cache.endChange(undefined);
  expect(sizeOf(file)).toBe(1);
});

describe('names', () => {
  test('absent is known too, and is not "unknown"', () => {
    expect(cache.name(directory, 'x')).toBeUndefined();
    cache.learnName(directory, 'x', null, true, cache.clock);
    expect(cache.name(directory, 'x')).toBeNull();
    expect(cache.name(directory, 'y')).toBeUndefined();
  });

  test('a node that left the table is looked up again', () => {
    const table1 = new NodeTable(Buffer.from('root'), 0);
    const node = table1.found(Buffer.from('file'));
    cache.learnName(table1.root, 'x', node, true, cache.clock);
    table1.forget(node.id, 1);
    expect(cache.name(table1.root, 'x')).toBeUndefined();
  });

  test('an own change keeps the other names, and makes its own known', () => {
    cache.learnName(directory, 'x', null, true, cache.clock);
    cache.learnAttributes(directory, attributes(1), true, cache.clock);
    const mark = cache.changingName(directory, 'new');
    expect(sizeOf(directory)).toBeUndefined();
    cache.changedName(directory, 'new', file, mark, attributes(2));
    expect([cache.name(directory, 'x'), cache.name(directory, 'new'), sizeOf(directory)]).toEqual([null, file, 2]);
    cache.changedName(directory, 'new', null, cache.changingName(directory, 'new'));
    expect([cache.name(directory, 'new'), sizeOf(directory)]).toEqual([null, undefined]);
  });

  test.each([
    ['a recall', () => cache.recall([directory])],
    ['another own change', () => cache.changingName(directory, 'other')],
    ['a lost connection', () => cache.clear()],
  ])('an own change during which came %s makes nothing known', (_what, event) => {
    cache.learnName(directory, 'x', null, true, cache.clock);
    const mark = cache.changingName(directory, 'new');
    event();
    cache.learnName(directory, 'y', null, true, cache.clock); // granted again meanwhile
    cache.changedName(directory, 'new', file, mark, attributes(2));
    expect([cache.name(directory, 'new'), sizeOf(directory)]).toEqual([undefined, undefined]);
  });

  test('without a lease on the directory an own change makes nothing known', () => {
    cache.changedName(directory, 'new', file, cache.changingName(directory, 'new'), attributes(1));
    expect([cache.name(directory, 'new'), cache.attributes(directory)]).toEqual([undefined, undefined]);
  });
});

test('a recall of a directory gives back what is known of the files in it, not of its directories', () => {
  const sub = table.found(Buffer.from('sub'));
  const unknown = table.found(Buffer.from('unknown'));
  for (const [name, node] of Object.entries({ file, sub, unknown, absent: null })) {
    cache.learnName(directory, name, node, true, cache.clock);
  }
  cache.learnAttributes(file, attributes(1), true, cache.clock);
  cache.learnAttributes(sub, attributes(2), true, cache.clock);
  cache.learnName(sub, 'x', null, true, cache.clock);
  expect(cache.recall([directory])).toEqual({ nodes: [directory, file], others: [file] });
  expect([sizeOf(file), sizeOf(sub), cache.name(sub, 'x'), cache.name(directory, 'absent')]).toEqual([
    undefined,
    2,
    null,
    undefined,
  ]);
});

describe('files whose pages the kernel keeps, when the names of their directory were recalled', () => {
  const PAGES = { hasPages: true } as NonNullable<Node['given']>;
  let files: Node[];

  beforeEach(() => {
    files = Array.from({ length: 8 }, (_, index) => {
      const one = table.found(Buffer.from(`file ${index}`));
      cache.learnAttributes(one, attributes(index), true, cache.clock);
      cache.learnName(directory, `name ${index}`, one, true, cache.clock);
      one.given = PAGES;
      return one;
    });
  });

  const recall = (node: Node) => {
    const { nodes } = cache.recall([node]);
    cache.gaveBack(nodes);
    return nodes;
  };

  test('stay known, and two are recalled by themselves; with the third go the others', () => {
    const [first, second, third, ...others] = files as [Node, Node, Node, ...Node[]];
    expect(recall(directory)).toEqual([directory]);
    expect(recall(first)).toEqual([first]);
    expect(recall(second)).toEqual([second]);
    expect(files.map(sizeOf)).toEqual([undefined, undefined, 2, 3, 4, 5, 6, 7]);
    expect(recall(third)).toEqual([third, ...others]);
    expect(files.map(sizeOf)).toEqual(files.map(() => undefined));
  });

  test('once this was in vain in two directories in a row, go with the names, but in every sixteenth directory', () => {
    const isLeftIn = (index: number, isRemoved: boolean): boolean => {
      const parent = table.found(Buffer.from(`parent ${index}`));
      const one = table.found(Buffer.from(`in ${index}`));
      cache.learnAttributes(one, attributes(1), true, cache.clock);
      cache.learnName(parent, 'name', one, true, cache.clock);
      one.given = PAGES;
      const isLeft = !recall(parent).includes(one);
      if (isRemoved) recall(one);
      return isLeft;
    };
    const removed = Array.from({ length: 34 }, (_, index) => isLeftIn(index, true));
    expect(removed.flatMap((isLeft, index) => (isLeft ? [index] : []))).toEqual([0, 1, 17, 33]);
    const single = Array.from({ length: 34 }, (_, index) => isLeftIn(100 + index, false));
    expect(single.indexOf(true)).toBe(15);
    expect(single.slice(15)).not.toContain(false);
  });

  test('not those that are open, gather writes, or are not leased any more', () => {
    const [first, second, third, open, unopened, gathering, forgotten, other] = files as [Node, ...Node[]] & Node[];
    const handle = {} as OpenHandle;
    (open as Node).cached = new Set([handle]);
    (unopened as Node).unopened = new Set([handle]);
    (gathering as Node).gatherer = handle;
    (forgotten as Node).isForgotten = true;
    recall(directory);
    for (const one of [first, second]) recall(one as Node);
    expect(recall(third as Node)).toEqual([third, other]);
    expect(sizeOf(open as Node)).toBe(3);
  });

  test('recalls without one of the directory before take nothing with them', () => {
    for (const one of files) expect(recall(one)).toEqual([one]);
  });

  test('files of another directory do not count', () => {
    const strangers = Array.from({ length: 5 }, (_, index) => table.found(Buffer.from(`stranger ${index}`)));
    recall(directory);
    for (const one of strangers) expect(recall(one)).toEqual([one]);
    expect(sizeOf(files[0] as Node)).toBe(0);
  });
});

test('a file that is asked for with its directory goes back once, also while leases may not be used', () => {
  const other = table.found(Buffer.from('other'));
  for (const [name, node] of Object.entries({ file, other })) {
    cache.learnName(directory, name, node, true, cache.clock);
    cache.learnAttributes(node, attributes(1), true, cache.clock);
  }
  isUsable = false;
  const { nodes, others } = cache.recall([directory, file]);
  expect({ nodes, others }).toEqual({ nodes: [directory, file, other], others: [other] });
  cache.gaveBack(nodes);
  isUsable = true;
  cache.learnAttributes(file, attributes(3), true, cache.clock);
  expect(sizeOf(file)).toBe(3);
});

test('nothing is used while the server has not answered; it is afterwards, unless something was recalled', () => {
  cache.learnAttributes(file, attributes(1), true, cache.clock);
  cache.learnName(directory, 'x', null, true, cache.clock);
  isUsable = false;
  expect([cache.attributes(file), cache.name(directory, 'x')]).toEqual([undefined, undefined]);
  cache.recall([directory]);
  isUsable = true;
  expect([sizeOf(file), cache.name(directory, 'x')]).toEqual([1, undefined]);
});

test.each([
  ['newer than both', { atime: { sec: 2, nsec: 0 } }, true],
  ['as old as the last change', { atime: { sec: 1, nsec: 5 } }, false],
  ['older than the last write', { atime: { sec: 0, nsec: 0 } }, false],
])('a read sets an access time that is not %s (relatime)', (_what, more, keeps) => {
  cache.learnAttributes(file, attributes(1, more), true, cache.clock);
  cache.wasRead(file, undefined, cache.clock);
  expect(sizeOf(file)).toBe(keeps ? 1 : undefined);
});

const UNREAD = { atime: { sec: 0, nsec: 0 } };
const NOW = { sec: 9, nsec: 9 };

test('the access time that a read sets is known when its reply says it', () => {
  cache.learnAttributes(file, attributes(1, UNREAD), true, cache.clock);
  cache.wasRead(file, undefined, cache.clock);
  cache.wasRead(file, NOW, cache.clock);
  expect(cache.attributes(file)).toMatchObject({ size: 1, atime: NOW });
});

test('but not when the file was changed since the read was asked for', () => {
  const asOf = cache.clock;
  cache.changed(file);
  cache.learnAttributes(file, attributes(1, UNREAD), true, cache.clock);
  cache.wasRead(file, NOW, asOf);
  expect(sizeOf(file)).toBeUndefined();
  expect(cache.knownAttributes(file)).toMatchObject(UNREAD);
});

describe('that a file has no capability', () => {
  const CAPABILITY = 'security.capability';
  const ENODATA = 61;
  const known = () => [cache.hasNoCapability(file), cache.xattr(file, CAPABILITY)];
  /** How the server says it, of any file. */
  const learned = () => {
    const other = table.found(Buffer.from('other'));
    cache.learnNew(other, true, cache.clock);
    cache.learnXattr(other, CAPABILITY, ENODATA, cache.clock);
  };

  test('is known of a new one, and answered when the server has said once how', () => {
    cache.learnNew(file, true, cache.clock);
    expect(known()).toEqual([true, undefined]);
    learned();
    expect(known()).toEqual([true, ENODATA]);
    // Of others nothing is known.
    expect(cache.xattr(file, 'system.posix_acl_access')).toBeUndefined();
  });

  const events: [what: string, event: () => void, isKnown: boolean][] = [
    ['own writes', () => cache.changed(file), true],
    ['own changes of attributes', beginAndEnd, true],
    [
      'an attribute that is set',
      () => {
        cache.mayHaveCapability(file);
        beginAndEnd();
      },
      false,
    ],
    ['a recall', () => cache.gaveBack(cache.recall([file]).nodes), false],
    ['a lost connection', () => cache.clear(), false],
    [
      'leases that may not be used',
      () => {
        isUsable = false;
      },
      false,
    ],
    ['one that the server has found', () => cache.learnXattr(file, CAPABILITY, Buffer.from('cap'), cache.clock), false],
  ];
  test.each(events)('after %s', (_what, event, isKnown) => {
    learned();
    for (const learn of [
      () => cache.learnNew(file, true, cache.clock),
      () => cache.learnXattr(file, CAPABILITY, ENODATA, cache.clock),
      () => cache.learnNoXattrs(file, cache.clock),
    ]) {
      isUsable = true;
      cache.learnHeld(file, true, cache.clock);
      learn();
      expect(known()).toEqual([true, ENODATA]);
      event();
      expect(cache.hasNoCapability(file)).toBe(isKnown);
      if (isKnown) expect(known()).toEqual([true, ENODATA]);
      else expect(cache.xattr(file, CAPABILITY)).not.toBe(ENODATA);
      isUsable = true;
      cache.mayHaveCapability(file);
      cache.changed(file);
    }
  });

  test('is not learned from a reply of before a recall', () => {
    const asOf = cache.clock;
    cache.gaveBack(cache.recall([file]).nodes);
    cache.learnNew(file, true, asOf);
    expect(known()).toEqual([false, undefined]);
  });
});
