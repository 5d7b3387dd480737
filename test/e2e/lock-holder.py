"""
Locks for test/e2e/locks.test.ts. Reads commands from standard input, one a line, and answers each with one line: `ok`
or the name of the errno. Files are kept open under names of their own.
  open N PATH | close N | lock N posix|ofd|flock sh|ex|un [nb] [START LENGTH] | get N START LENGTH | write N TEXT | read N | sync N
"""
import errno, fcntl, os, signal, struct, sys

files = {}
KINDS = {'sh': fcntl.LOCK_SH, 'ex': fcntl.LOCK_EX, 'un': fcntl.LOCK_UN}


class Interrupted(Exception):
    pass


def interrupted(_signal, _frame):
    raise Interrupted


signal.signal(signal.SIGUSR1, interrupted)


def lock(name, kind, mode, *rest):
    how = KINDS[mode] | (fcntl.LOCK_NB if 'nb' in rest else 0)
    if kind == 'flock':
        fcntl.flock(files[name], how)
    elif kind == 'ofd':
        types = {'sh': fcntl.F_RDLCK, 'ex': fcntl.F_WRLCK, 'un': fcntl.F_UNLCK}
        command = fcntl.F_OFD_SETLK if 'nb' in rest else fcntl.F_OFD_SETLKW
        fcntl.fcntl(files[name], command, struct.pack('hhqqi4x', types[mode], 0, 0, 0, 0))
    else:
        numbers = [int(one) for one in rest if one != 'nb'] or [0, 0]
        fcntl.lockf(files[name], how, numbers[1], numbers[0])


def get(name, start, length):
    asked = struct.pack('hhqqi4x', fcntl.F_WRLCK, 0, int(start), int(length), 0)
    kind, _, at, bytes_, pid = struct.unpack('hhqqi4x', fcntl.fcntl(files[name], fcntl.F_GETLK, asked))
    return 'free' if kind == fcntl.F_UNLCK else f'{"sh" if kind == fcntl.F_RDLCK else "ex"} {at} {bytes_} {pid}'


def run(command, *args):
    if command == 'open':
        files[args[0]] = os.open(args[1], os.O_RDWR | os.O_CREAT, 0o666)
    elif command == 'close':
        os.close(files.pop(args[0]))
    elif command == 'lock':
        lock(*args)
    elif command == 'get':
        return get(*args)
    elif command == 'write':
        os.pwrite(files[args[0]], args[1].encode(), 0)
    elif command == 'sync':
        os.fsync(files[args[0]])
    elif command == 'read':
        return os.pread(files[args[0]], 100, 0).decode() or 'empty'
    return 'ok'


for line in sys.stdin:
    try:
        print(run(*line.split()), flush=True)
    except OSError as error:
        print(errno.errorcode[error.errno], flush=True)
    except Interrupted:
        print('interrupted', flush=True)
