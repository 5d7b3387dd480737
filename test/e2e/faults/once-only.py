"""
For test/e2e/faults/server-killed.test.ts: changes that must not be made twice, one after the other, until there is a file `stop`.
  once-only.py DIRECTORY NAME STOP
Prints what it was told: how many were done, which records nobody knows of (EIO), and every other error.
"""
import errno, json, os, sys

directory, name, stop = sys.argv[1:]
log = os.open(f'{directory}/log', os.O_WRONLY | os.O_APPEND)
told = {'done': [], 'uncertain': [], 'errors': []}
uncertain = 0


def attempt(what, *paths):
    global uncertain
    try:
        what(*paths)
        return True
    except OSError as error:
        if error.errno == errno.EIO:
            uncertain += 1
        else:
            told['errors'].append(f'{what.__name__} {paths}: {errno.errorcode[error.errno]}')
        return False


count = 0
# Nor is there anything to do when the test has ended without it.
while os.path.exists(os.path.dirname(stop)) and not os.path.exists(stop):
    count += 1
    record = f'{name}-{count}'
    try:
        os.write(log, f'{record}\n'.encode())
        told['done'].append(record)
    except OSError as error:
        told['uncertain' if error.errno == errno.EIO else 'errors'].append(record)
    here = f'{directory}/{name}'
    # Each is right only when the one before was made, once: after an uncertain one the next name is taken.
    if attempt(os.mkdir, f'{here}-{count}') and attempt(os.rename, f'{here}-{count}', f'{here}-{count}.moved'):
        attempt(os.rmdir, f'{here}-{count}.moved')
print(json.dumps({**told, 'changes': count, 'uncertainChanges': uncertain}))
