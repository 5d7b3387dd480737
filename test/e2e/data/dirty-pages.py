"""Cuts a file while pages of a shared mapping are dirty and the file is open to be read as well: ROUNDS times. Usage: FILE ROUNDS"""
import mmap
import os
import sys

PAGE = 4096
path, rounds = sys.argv[1], int(sys.argv[2])
for _ in range(rounds):
    with open(path, "wb") as file:
        file.write(b"a" * 16 * PAGE)
    reader = os.open(path, os.O_RDONLY)
    os.pread(reader, 16 * PAGE, 0)
    writer = os.open(path, os.O_RDWR)
    mapping = mmap.mmap(writer, 16 * PAGE)
    for page in (0, 5, 10):
        mapping[page * PAGE] = ord("b")
    os.ftruncate(writer, PAGE + 100)
    mapping.close()
    os.close(writer)
    with open(path, "rb") as file:
        found = file.read()
    assert found == b"b" + b"a" * (PAGE + 99), (len(found), found[:8])
    os.close(reader)
