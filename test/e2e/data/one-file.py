"""
Random operations on one file through two mounts in turn, as fsx does on one: after each, what the other mount reads is
compared with a model in memory. For test/e2e/one-file.test.ts. Prints one line of JSON.
  one-file.py SEED OPERATIONS MOUNT MOUNT FILE-ON-THE-SERVER
"""
import ctypes, json, mmap, os, random, sys

seed, count, roots, local = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3:5], sys.argv[5]
name = os.path.basename(local)
chance = random.Random(seed)
libc = ctypes.CDLL(None, use_errno=True)
KEEP_SIZE, PUNCH_HOLE, ZERO_RANGE = 1, 2, 0x10
# More than comes with an open, and than one page or block.
MAX_SIZE = 160 * 1024

model = bytearray()
history = []
counts = {}


def fallocate(fd, mode, offset, length):
    if libc.fallocate(fd, mode, ctypes.c_longlong(offset), ctypes.c_longlong(length)) != 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))


class Mount:
    """One mount, with a handle that stays open for a while: the only one, one of several, for reading or for writing."""

    def __init__(self, root):
        self.path = f'{root}/{name}'
        self.kept = None
        self.keptWrites = False

    def keep(self, flags):
        self.drop()
        self.kept = os.open(self.path, flags)
        self.keptWrites = flags & os.O_RDWR != 0

    def drop(self):
        if self.kept is not None:
            os.close(self.kept)
        self.kept = None

    def use(self, flags, work):
        """Through the handle that is kept, if it will do, or one of its own."""
        wants_write = flags & os.O_ACCMODE != os.O_RDONLY
        can = self.kept is not None and (self.keptWrites or not wants_write) and not flags & ~os.O_ACCMODE
        if can and chance.random() < 0.7:
            return work(self.kept)
        fd = os.open(self.path, flags)
        try:
            return work(fd)
        finally:
            os.close(fd)


def place(of_size):
    """Offset and length within a file of this size; edges of pages more often than chance would have it."""
    offset = chance.randrange(of_size)
    if chance.random() < 0.3:
        offset -= offset % 4096
    longest = of_size - offset
    length = chance.randint(1, longest if chance.random() < 0.2 else min(longest, 9000))
    return offset, length


def grow(size):
    if len(model) < size:
        model.extend(bytes(size - len(model)))


def put(offset, data):
    grow(offset + len(data))
    model[offset:offset + len(data)] = data


def some_bytes(length):
    return chance.randbytes(length)


def write(mount):
    offset, length = place(MAX_SIZE)
    data = some_bytes(length)
    flags = os.O_RDWR | (os.O_SYNC if chance.random() < 0.1 else 0)
    assert mount.use(flags, lambda fd: os.pwrite(fd, data, offset)) == length
    put(offset, data)
    return f'{offset}+{length}'


def append(mount):
    data = some_bytes(chance.randint(1, 9000))
    if len(model) + len(data) > MAX_SIZE:
        return truncate(mount)
    assert mount.use(os.O_WRONLY | os.O_APPEND, lambda fd: os.write(fd, data)) == len(data)
    put(len(model), data)
    return f'{len(data)}'


def truncate(mount):
    size = chance.randrange(MAX_SIZE)
    if chance.random() < 0.5:
        os.truncate(mount.path, size)
    else:
        mount.use(os.O_RDWR, lambda fd: os.ftruncate(fd, size))
    grow(size)
    del model[size:]
    return f'{size}'


def truncate_by_open(mount):
    data = some_bytes(chance.randint(0, 5000))
    fd = os.open(mount.path, os.O_RDWR | os.O_TRUNC)
    os.write(fd, data)
    os.close(fd)
    model[:] = data
    return f'{len(data)}'


def map_write(mount):
    if len(model) == 0:
        return 'nothing'
    offset, length = place(len(model))
    data = some_bytes(length)

    def work(fd):
        os.fstat(fd)
        with mmap.mmap(fd, len(model)) as mapped:
            mapped[offset:offset + length] = data
            mapped.flush()

    mount.use(os.O_RDWR, work)
    put(offset, data)
    return f'{offset}+{length}'


def punch(mount):
    offset, length = place(MAX_SIZE)
    mount.use(os.O_RDWR, lambda fd: fallocate(fd, PUNCH_HOLE | KEEP_SIZE, offset, length))
    end = min(offset + length, len(model))
    if offset < end:
        model[offset:end] = bytes(end - offset)
    return f'{offset}+{length}'


def zero(mount):
    offset, length = place(MAX_SIZE)
    keeps = chance.random() < 0.5
    mount.use(os.O_RDWR, lambda fd: fallocate(fd, ZERO_RANGE | (KEEP_SIZE if keeps else 0), offset, length))
    if not keeps:
        grow(offset + length)
    end = min(offset + length, len(model))
    if offset < end:
        model[offset:end] = bytes(end - offset)
    return f'{offset}+{length}{" keep size" if keeps else ""}'


def allocate(mount):
    offset, length = place(MAX_SIZE)
    mount.use(os.O_RDWR, lambda fd: fallocate(fd, 0, offset, length))
    grow(offset + length)
    return f'{offset}+{length}'


def copy(mount):
    if len(model) < 2:
        return 'nothing'
    source, length = place(len(model))
    target = chance.randrange(MAX_SIZE - length)
    if abs(source - target) < length:
        return 'nothing'
    data = bytes(model[source:source + length])

    def work(fd):
        done = 0
        while done < length:
            copied = os.copy_file_range(fd, fd, length - done, source + done, target + done)
            assert copied > 0
            done += copied

    mount.use(os.O_RDWR, work)
    put(target, data)
    return f'{source}+{length} to {target}'


def synchronize(mount):
    mount.use(os.O_RDWR, os.fsync)
    return ''


def keep_open(mount):
    flags = chance.choice([os.O_RDONLY, os.O_RDWR, None])
    if flags is None:
        mount.drop()
    else:
        mount.keep(flags)
    return {None: 'none', os.O_RDONLY: 'to read', os.O_RDWR: 'to write'}[flags]


OPERATIONS = [write] * 6 + [append] * 3 + [truncate] * 3 + [map_write] * 4 + [punch] * 2 + [zero] * 2 + [copy] * 3
OPERATIONS += [truncate_by_open, allocate, synchronize, keep_open, keep_open, keep_open]


def read_by_map(mount):
    if len(model) == 0:
        return b''

    def work(fd):
        os.fstat(fd)
        with mmap.mmap(fd, len(model), prot=mmap.PROT_READ) as mapped:
            return mapped[:]

    return mount.use(os.O_RDONLY, work)


def read_part(mount):
    """In the place of all of it, so that not every look brings the whole file into the cache."""
    offset, length = place(MAX_SIZE)
    found = mount.use(os.O_RDONLY, lambda fd: os.pread(fd, length, offset))
    return bytes(model[:offset]) + found + bytes(model[offset + length:])


def read_all(mount):
    return mount.use(os.O_RDONLY, lambda fd: os.pread(fd, MAX_SIZE + 1, 0))


def check(mount, where):
    size = os.stat(mount.path).st_size
    assert size == len(model), f'{where}: the size is {size}, and should be {len(model)}'
    kind = chance.choice([read_all, read_all, read_part, read_by_map])
    found = kind(mount)
    if found == model:
        return
    at = next((i for i, (a, b) in enumerate(zip(found, model)) if a != b), min(len(found), len(model)))
    raise AssertionError(f'{where}, {kind.__name__}: {len(found)} bytes of {len(model)}, differs at {at}')


mounts = [Mount(root) for root in roots]
os.close(os.open(mounts[0].path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o644))
problem = None
try:
    for number in range(count):
        index = chance.randrange(2)
        operation = chance.choice(OPERATIONS)
        counts[operation.__name__] = counts.get(operation.__name__, 0) + 1
        history.append(f'{number} {"AB"[index]} {operation.__name__}')
        history[-1] += f' {operation(mounts[index])}'
        check(mounts[1 - index], f'after {history[-1]}, at {"BA"[index]}')
        if chance.random() < 0.2:
            check(mounts[index], f'after {history[-1]}, at {"AB"[index]} itself')
        if chance.random() < 0.05:
            with open(local, 'rb') as file:
                assert file.read() == model, f'after {history[-1]}, on the server'
except (AssertionError, OSError) as error:
    problem = f'{type(error).__name__}: {error}; before: {"; ".join(history[-12:])}'
for mount in mounts:
    mount.drop()
print(json.dumps({'seed': seed, 'operations': len(history), 'counts': counts, 'problem': problem}))
