"""
For test/e2e/faults/random-cuts.test.ts: each WORKER makes COUNT operations in ROOT/WORKER, most of which fail, or leave a trace, when they
are made twice. Prints what each gave: a value, or the name of the errno.
  random-changes.py run ROOT SEED COUNT WORKER...    one after the other
  random-changes.py tree ROOT                        all that is there: names, kinds, modes, links, contents, attributes
In ROOT/shared, where others work too, only what does not depend on their order is done: appends, and counters under locks.
"""
import ctypes, errno, fcntl, hashlib, os, random, stat, sys

libc = ctypes.CDLL(None, use_errno=True)
NOREPLACE, EXCHANGE = 1, 2
KEEP_SIZE, PUNCH_HOLE = 1, 2
NAMES = ['n0', 'n1', 'n2', 'n3']
PARENTS = ['', 'd0', 'd1', 'd0/d2']
LARGE = 150_000  # goes over the bulk lane


def digest(data):
    return f'{len(data)} {hashlib.sha256(data).hexdigest()[:16]}'


def checked(result):
    if result != 0:
        raise OSError(ctypes.get_errno(), '')


class Worker:
    def __init__(self, root, seed, name):
        self.directory, self.shared, self.name = f'{root}/{name}', f'{root}/shared', name
        self.random = random.Random(f'{seed} {name}')
        self.files = {}
        self.records = 0

    def path(self):
        """Of something, or of nothing."""
        return os.path.join(self.directory, self.random.choice(PARENTS), self.random.choice(NAMES + ['d0', 'd1', 'd2']))

    def existing(self):
        """Mostly of something that is there, if anything is."""
        directory = os.path.join(self.directory, self.random.choice(PARENTS))
        chosen = self.random.random()
        names = sorted(os.listdir(directory)) if chosen < 0.9 and os.path.isdir(directory) else []
        return os.path.join(directory, names[int(chosen / 0.9 * len(names))]) if names else self.path()

    def regular(self):
        """Others are not opened: a fifo would wait, a device is the client's."""
        for _ in range(5):
            path = self.existing()
            if os.path.lexists(path) and stat.S_ISREG(os.lstat(path).st_mode):
                return path
        raise FileNotFoundError(errno.ENOENT, '')

    def data(self):
        return self.random.randbytes(self.random.choice([0, 1, 100, 5000, 5000, 70_000, LARGE]))

    def mode(self):
        return self.random.choice([0o600, 0o644, 0o755, 0o4755, 0o2755, 0o1777, 0o000])

    # --- names

    def mkdir(self):
        os.mkdir(self.path(), self.mode())

    def rmdir(self):
        os.rmdir(self.existing())

    def create(self):
        path, data = self.path(), self.data()
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, self.mode())
        try:
            return os.write(fd, data)
        finally:
            os.close(fd)

    def unlink(self):
        os.unlink(self.existing())

    def rename(self):
        os.rename(self.existing(), self.random.choice([self.path, self.existing])())

    def rename_flags(self):
        source, target = self.existing(), self.random.choice([self.path, self.existing])()
        how = self.random.choice([NOREPLACE, EXCHANGE])
        checked(libc.renameat2(-100, source.encode(), -100, target.encode(), how))

    def link(self):
        os.link(self.existing(), self.path(), follow_symlinks=False)

    def symlink(self):
        os.symlink(self.random.choice(NAMES), self.path())

    def mknod(self):
        kind = self.random.choice([stat.S_IFIFO, stat.S_IFREG, stat.S_IFSOCK, stat.S_IFCHR])
        os.mknod(self.path(), kind | self.mode(), os.makedev(1, 3) if kind == stat.S_IFCHR else 0)

    def unnamed(self):
        """O_TMPFILE, and a name for it."""
        data, path = self.data(), self.path()
        fd = os.open(self.directory, os.O_TMPFILE | os.O_RDWR, 0o640)
        try:
            os.write(fd, data)
            os.link(f'/proc/self/fd/{fd}', path, src_dir_fd=0, follow_symlinks=True)
        finally:
            os.close(fd)

    # --- attributes

    def chmod(self):
        path, mode = self.existing(), self.mode()
        if not stat.S_ISLNK(os.lstat(path).st_mode):
            os.chmod(path, mode)

    def chown(self):
        os.chown(self.existing(), self.random.randrange(3), self.random.randrange(3), follow_symlinks=False)

    def utime(self):
        os.utime(self.existing(), ns=(0, self.random.randrange(10**18)), follow_symlinks=False)

    def setxattr(self):
        path, name = self.existing(), f'user.{self.random.randrange(3)}'
        flags = self.random.choice([0, os.XATTR_CREATE, os.XATTR_REPLACE])
        os.setxattr(path, name, self.random.randbytes(self.random.randrange(200)), flags, follow_symlinks=False)

    def removexattr(self):
        os.removexattr(self.existing(), f'user.{self.random.randrange(3)}', follow_symlinks=False)

    # --- data

    def append(self):
        path, data = self.regular(), self.data()
        fd = os.open(path, os.O_WRONLY | os.O_APPEND)
        try:
            return os.write(fd, data), os.lseek(fd, 0, os.SEEK_END)
        finally:
            os.close(fd)

    def truncate(self):
        os.truncate(self.regular(), self.random.randrange(200_000))

    def overwrite(self):
        path, data = self.regular(), self.data()
        with open(path, 'wb', buffering=0) as file:
            return file.write(data)

    def open(self):
        slot, path, append = self.random.randrange(3), self.regular(), self.random.choice([0, os.O_APPEND])
        if slot in self.files:
            os.close(self.files.pop(slot))
        self.files[slot] = os.open(path, os.O_RDWR | append)

    def used(self):
        slot = self.random.randrange(3)
        if slot not in self.files:
            raise OSError(errno.EBADF, '')
        return self.files[slot]

    def write_open(self):
        data, offset = self.data(), self.random.randrange(100_000)
        fd = self.used()
        if self.random.randrange(2):
            return os.pwrite(fd, data, offset)
        return os.write(fd, data), os.lseek(fd, 0, os.SEEK_CUR)

    def read_open(self):
        fd = self.used()
        return digest(os.pread(fd, 1 << 20, self.random.randrange(5000)))

    def allocate(self):
        fd, offset, length = self.used(), self.random.randrange(50_000), self.random.randrange(1, 50_000)
        how = self.random.choice([0, KEEP_SIZE, KEEP_SIZE | PUNCH_HOLE])
        checked(libc.fallocate(fd, how, ctypes.c_long(offset), ctypes.c_long(length)))

    def copy(self):
        source, target = self.used(), self.used()
        return os.copy_file_range(source, target, self.random.randrange(1, 20_000), 0, 300_000)

    def truncate_open(self):
        os.ftruncate(self.used(), self.random.randrange(200_000))

    def sync(self):
        os.fsync(self.used())

    def lock_open(self):
        fd, start, length = self.used(), self.random.randrange(100), self.random.randrange(1, 100)
        fcntl.lockf(fd, self.random.choice([fcntl.LOCK_EX, fcntl.LOCK_UN]), length, start)

    # --- looking

    def look(self):
        found = os.lstat(self.existing())
        size = found.st_size if stat.S_ISREG(found.st_mode) else 0
        return f'{found.st_mode:o} {found.st_nlink} {size} {found.st_uid} {found.st_gid}'

    def content(self):
        with open(self.regular(), 'rb') as file:
            return digest(file.read())

    def listing(self):
        return ' '.join(sorted(os.listdir(os.path.join(self.directory, self.random.choice(PARENTS)))))

    # --- together with others

    def record(self):
        self.records += 1
        line = f'{self.name} {self.records} '.ljust(self.random.choice([20, 1000, 5000]), '.') + '\n'
        fd = os.open(f'{self.shared}/log', os.O_WRONLY | os.O_APPEND)
        try:
            return os.write(fd, line.encode())
        finally:
            os.close(fd)

    def count(self):
        lock = self.random.choice([fcntl.lockf, fcntl.flock])
        fd = os.open(f'{self.shared}/{lock.__name__}', os.O_RDWR)
        try:
            lock(fd, fcntl.LOCK_EX)
            value = int(os.pread(fd, 100, 0) or b'0')
            os.pwrite(fd, str(value + 1).encode(), 0)
            lock(fd, fcntl.LOCK_UN)
        finally:
            os.close(fd)

    def run(self, count):
        names = [name for name, what in vars(Worker).items() if callable(what) and name not in HELPERS]
        # So that there is something to work with.
        weights = [3 if name in ('create', 'open', 'write_open', 'record', 'count') else 1 for name in names]
        for parent in PARENTS[1:]:
            os.mkdir(f'{self.directory}/{parent}')
        for index in range(count):
            name = self.random.choices(names, weights)[0]
            try:
                result = getattr(self, name)()
            except OSError as error:
                result = errno.errorcode[error.errno]
            print(self.name, index, name, result)
        for fd in self.files.values():
            os.close(fd)


HELPERS = {'__init__', 'path', 'existing', 'regular', 'data', 'mode', 'used', 'run'}


def tree(root):
    first = {}
    for directory, names, files in os.walk(root):
        names.sort()
        for name in sorted(names + files):
            path = os.path.join(directory, name)
            found = os.lstat(path)
            short = os.path.relpath(path, root)
            same = first.setdefault(found.st_ino, short)
            print(short, f'{found.st_mode:o}', found.st_nlink, found.st_uid, found.st_gid, found.st_rdev, same, content(path), attributes(path))


def content(path):
    if os.path.islink(path):
        return os.readlink(path)
    if not os.path.isfile(path):
        return ''
    with open(path, 'rb') as file:
        data = file.read()
    # Whoever comes first: sorted, by a stable order.
    return digest(b'\n'.join(sorted(data.split(b'\n'), key=lambda line: line[:2])) if path.endswith('shared/log') else data)


def attributes(path):
    names = sorted(os.listxattr(path, follow_symlinks=False))
    return {name: os.getxattr(path, name, follow_symlinks=False).hex() for name in names}


os.umask(0o022)
command, root, *rest = sys.argv[1:]
if command == 'tree':
    tree(root)
else:
    seed, count, *names = rest
    for name in names:
        Worker(root, seed, name).run(int(count))
