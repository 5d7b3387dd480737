"""
Counters side by side in one page of a file, each counted up under a lock of its own bytes. For test/e2e/data/mapped-counters.test.ts.
  mapped-counters.py FILE COUNTERS ROUNDS posix|flock map|mixed
`map`: through a shared mapping. `mixed`: now and then by pread and pwrite. Prints how often each was counted up.
"""
import fcntl, json, mmap, os, random, struct, sys

path, counters, rounds, kind, how = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4], sys.argv[5]
fd = os.open(path, os.O_RDWR)
mapped = mmap.mmap(fd, os.fstat(fd).st_size)
counts = [0] * counters


def lock(number, mode):
    if kind == 'posix':
        fcntl.lockf(fd, mode, 4, 4 * number)
    else:
        fcntl.flock(fd, mode)


def count_up(number):
    if how == 'mixed' and random.random() < 0.4:
        (value,) = struct.unpack('<I', os.pread(fd, 4, 4 * number))
        os.pwrite(fd, struct.pack('<I', value + 1), 4 * number)
    else:
        (value,) = struct.unpack_from('<I', mapped, 4 * number)
        struct.pack_into('<I', mapped, 4 * number, value + 1)
    counts[number] += 1


for _ in range(rounds):
    # One is held while the next is taken, as often as not: a page is written back and dropped with stores under another lock in it.
    first, second = sorted(random.sample(range(counters), 2))
    lock(first, fcntl.LOCK_EX)
    count_up(first)
    if kind == 'posix' and random.random() < 0.5:
        lock(second, fcntl.LOCK_EX)
        count_up(first)
        count_up(second)
        lock(second, fcntl.LOCK_UN)
        count_up(first)
    lock(first, fcntl.LOCK_UN)
print(json.dumps(counts))
