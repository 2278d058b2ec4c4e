#!/usr/bin/env python3
"""Changes a tree in every way that a file system has, until told to stop: the writers of the torture test.

  writers.py ROOT --seed N [--kinds rewrite,append,...] [--pace MS]
  writers.py --list

One process a kind. On stdin: `run SECONDS` lets all of them work for so long, and `quiet` is answered when nobody changes anything any
more, with mappings still mapped and files still open; `store` has every mapping written to once more, in silence; `end` ends them.
Each kind works in its own directory and in one that all share, where the others' renames, links and flags are in its way: what fails
there fails, as it would for any program. They are confined to ROOT (chroot): links that lead out of it are among what they make.
"""
import argparse
import ctypes
import errno
import fcntl
import mmap
import os
import random
import shutil
import signal
import stat
import struct
import sys
import time

libc = ctypes.CDLL(None, use_errno=True)
KEEP_SIZE, PUNCH_HOLE = 1, 2
EXCHANGE = 2
FSGETXATTR, FSSETXATTR = 0x801C581F, 0x401C5820
IMMUTABLE, APPEND, NOATIME, NODUMP, PROJINHERIT = 0x8, 0x10, 0x40, 0x80, 0x200


def regular(path, flags):
    """An opener that neither waits for the other end of a pipe nor writes to a device."""
    fd = os.open(path, flags | os.O_NONBLOCK | os.O_NOCTTY, 0o666)
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise OSError(errno.EINVAL, "no file")
    return fd


def open_file(path, mode, buffering=-1):
    return open(path, mode, buffering=buffering, opener=regular)


class Place:
    """A directory that a kind works in, and chance."""

    def __init__(self, root, rng, names):
        self.root, self.rng, self.names = root, rng, names
        os.makedirs(root, exist_ok=True)

    def path(self, name=None):
        return os.path.join(self.root, name or self.rng.choice(self.names))

    def bytes(self, most=5000):
        return self.rng.randbytes(self.rng.randrange(most))

    def file(self):
        """A file that is there, made where it is not."""
        path = self.path()
        if not os.path.lexists(path):
            with open_file(path, "wb") as file:
                file.write(self.bytes())
        return path

    def any(self):
        found = os.listdir(self.root)
        return os.path.join(self.root, self.rng.choice(found)) if found else self.file()


def exchange(a, b):
    if libc.renameat2(-100, os.fsencode(a), -100, os.fsencode(b), EXCHANGE) != 0:
        raise OSError(ctypes.get_errno(), "renameat2")


def set_flags(path, change, project=None):
    fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    try:
        raw = bytearray(fcntl.ioctl(fd, FSGETXATTR, bytes(28)))
        struct.pack_into("=I", raw, 0, change(struct.unpack_from("=I", raw)[0]))
        if project is not None:
            struct.pack_into("=I", raw, 12, project)
        fcntl.ioctl(fd, FSSETXATTR, bytes(raw))
    finally:
        os.close(fd)


def remove(path):
    if os.path.isdir(path) and not os.path.islink(path):
        shutil.rmtree(path, ignore_errors=True)
    else:
        os.unlink(path)


# ---- the kinds: each call changes one thing; `state` is its own from call to call

def rewrite(p, state):
    """Other bytes of the same number, often within one second, sometimes with the time put back."""
    path = p.path()
    with open_file(path, "wb") as file:
        file.write(p.rng.randbytes(p.rng.choice((100, 100, 4096, 300_000))))
    if p.rng.random() < 0.2:
        st = os.stat(path)
        with open_file(path, "r+b") as file:
            file.write(p.rng.randbytes(50))
        os.utime(path, ns=(st.st_atime_ns, st.st_mtime_ns))


def append(p, state):
    """Logs that grow, some held open, some rotated."""
    path = p.path()
    held = state.setdefault("held", {})
    if path in held and p.rng.random() < 0.1:
        held.pop(path).close()
        if p.rng.random() < 0.5:
            os.replace(path, path + ".1")
        return
    if path not in held:
        held[path] = open_file(path, "ab", 0)
    held[path].write(p.rng.randbytes(p.rng.choice((20, 200, 20_000))))
    if held[path].tell() > 3 << 20:
        held.pop(path).close()
        os.unlink(path)


def truncate(p, state):
    path = p.file()
    os.truncate(path, p.rng.choice((0, 1, 100, 4096, 70_000, 500_000)))


def rename(p, state):
    """Files and directories with something in them, over one another, to and fro, exchanged."""
    chance = p.rng.random()
    if chance < 0.25:
        directory = p.path("d%d" % p.rng.randrange(6))
        os.makedirs(os.path.join(directory, "sub"), exist_ok=True)
        with open_file(os.path.join(directory, "sub", "f%d" % p.rng.randrange(4)), "wb") as file:
            file.write(p.bytes(300))
    elif chance < 0.45:
        exchange(p.any(), p.any())
    elif chance < 0.55:
        into = p.path("d%d" % p.rng.randrange(6))
        os.rename(p.any(), os.path.join(into, "moved%d" % p.rng.randrange(4)))
    elif chance < 0.6:
        remove(p.any())
    elif chance < 0.7:
        for n in range(20):  # a storm
            os.rename(p.any(), p.path("d%d" % p.rng.randrange(6)))
    else:
        p.file()
        os.rename(p.any(), p.path())


def deep(p, state):
    """mkdir -p bursts with a file at the end of each, then all of it goes."""
    top = p.path("deep%d" % p.rng.randrange(4))
    if os.path.isdir(top) and p.rng.random() < 0.3:
        return shutil.rmtree(top)
    at = os.path.join(top, *["level%d" % p.rng.randrange(3) for _ in range(p.rng.randrange(1, 30))])
    os.makedirs(at, exist_ok=True)
    with open_file(os.path.join(at, "leaf"), "wb") as file:
        file.write(p.bytes(200))


def link(p, state):
    """Hard links made, written to through either name, replaced, broken, across directories."""
    chance = p.rng.random()
    names = [p.path(n) for n in p.names]
    if p.rng.random() < 0.3:
        os.makedirs(p.path("side"), exist_ok=True)
        names = [p.path("side/" + n) for n in p.names]
    path = p.rng.choice(names)
    if chance < 0.35:
        source = p.file()
        if p.rng.random() < 0.5:
            temporary = path + ".l"
            os.link(source, temporary, follow_symlinks=False)
            os.replace(temporary, path)  # of the same file, this does nothing: then
            if os.path.lexists(temporary):
                os.unlink(temporary)
        else:
            os.link(source, path, follow_symlinks=False)
    elif chance < 0.6:
        with open_file(path, "r+b") as file:
            file.write(p.bytes(300))
    elif chance < 0.7:
        os.chmod(path, p.rng.choice((0o600, 0o640, 0o644)))
    elif chance < 0.8:  # broken, with the same content and times
        st = os.stat(path)
        shutil.copy2(path, path + ".c")
        os.chown(path + ".c", st.st_uid, st.st_gid)
        os.replace(path + ".c", path)
    elif chance < 0.9:
        os.unlink(path)
    elif chance < 0.95:
        with open_file(path, "wb") as file:
            file.write(p.rng.randbytes(p.rng.choice((10, 400_000))))
    else:
        os.rename(path, p.rng.choice(names))


def mapped(p, state):
    """Stores through shared mappings that stay; the file descriptor is long closed."""
    maps = state.setdefault("maps", {})
    path = p.path()
    if path in maps and p.rng.random() < 0.03:
        maps.pop(path).close()
        return
    if path not in maps:
        with open_file(path, "a+b") as file:
            size = p.rng.choice((4096, 65536, 400_000))
            file.truncate(size)
            maps[path] = mmap.mmap(file.fileno(), size)
    store(maps[path], p.rng)


def store(view, rng):
    at = rng.randrange(len(view) - 8)
    view[at:at + 8] = rng.randbytes(8)


def sparse(p, state):
    path = p.path()
    fd = regular(path, os.O_RDWR | os.O_CREAT)
    try:
        chance = p.rng.random()
        at = p.rng.randrange(0, 4 << 20)
        if chance < 0.4:
            os.pwrite(fd, p.bytes(), at)
        elif chance < 0.6:
            os.pwrite(fd, p.rng.randbytes(1 << 18), at & ~4095)
        elif chance < 0.85:
            if libc.fallocate(fd, KEEP_SIZE | PUNCH_HOLE, ctypes.c_long(at & ~4095), ctypes.c_long(1 << 18)) != 0:
                raise OSError(ctypes.get_errno(), "fallocate")
        else:
            os.ftruncate(fd, at)
    finally:
        os.close(fd)


def flags(p, state):
    """chattr: what no event tells of. Immutable and append-only ones are changed in between, as their owner would."""
    path = p.any() if p.rng.random() < 0.7 else p.file()
    chance = p.rng.random()
    if chance < 0.3:
        set_flags(path, lambda f: f & ~(IMMUTABLE | APPEND))
        if os.path.isfile(path) and not os.path.islink(path):
            with open_file(path, "wb") as file:
                file.write(p.bytes())
            set_flags(path, lambda f: f | p.rng.choice((IMMUTABLE, APPEND, 0)))
    elif chance < 0.4:
        made = p.path("locked%d" % p.rng.randrange(3))
        os.makedirs(made, exist_ok=True)
        set_flags(made, lambda f: f & ~(IMMUTABLE | APPEND))
        with open_file(os.path.join(made, "in%d" % p.rng.randrange(3)), "wb") as file:
            file.write(p.bytes(100))
        set_flags(made, lambda f: f | p.rng.choice((IMMUTABLE, APPEND)))
    elif chance < 0.5:
        set_flags(path, lambda f: f & ~(IMMUTABLE | APPEND))
        remove(path)
    elif chance < 0.6:
        with open_file(path, "ab") as file:  # what append-only is for
            file.write(p.bytes(200))
    else:
        set_flags(path, lambda f: f ^ p.rng.choice((NODUMP, NOATIME, IMMUTABLE, APPEND)))


def project(p, state):
    path = p.any() if p.rng.random() < 0.6 else p.file()
    inherits = os.path.isdir(path) and not os.path.islink(path) and p.rng.random() < 0.5
    set_flags(path, lambda f: f | PROJINHERIT if inherits else f & ~PROJINHERIT, p.rng.choice((0, 7, 4711)))
    if p.rng.random() < 0.4:
        os.makedirs(p.path("in"), exist_ok=True)
        with open_file(p.path("in/f%d" % p.rng.randrange(5)), "wb") as file:
            file.write(p.bytes(100))


def acl(rng, directory):
    mode = rng.randrange(8)
    rows = [(1, 7 if directory else 6, 0xFFFFFFFF), (2, rng.randrange(8), rng.choice((1000, 4711))), (4, 5, 0xFFFFFFFF),
            (16, mode, 0xFFFFFFFF), (32, rng.randrange(8), 0xFFFFFFFF)]
    return struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *row) for row in rows)


def xattr(p, state):
    path = p.any() if p.rng.random() < 0.5 else p.file()
    chance = p.rng.random()
    if chance < 0.1:
        os.makedirs(p.path("dir%d" % p.rng.randrange(3)), exist_ok=True)
    elif chance < 0.4:
        os.setxattr(path, "user.%d" % p.rng.randrange(4), p.bytes(900), follow_symlinks=False)
    elif chance < 0.5:
        names = os.listxattr(path, follow_symlinks=False)
        if names:
            os.removexattr(path, p.rng.choice(names), follow_symlinks=False)
    elif chance < 0.75:
        os.setxattr(path, "system.posix_acl_access", acl(p.rng, os.path.isdir(path)), follow_symlinks=False)
    elif chance < 0.85 and os.path.isdir(path):
        os.setxattr(path, "system.posix_acl_default", acl(p.rng, True), follow_symlinks=False)
    elif os.path.isfile(path) and not os.path.islink(path):
        value = struct.pack("<IIIII", 0x02000001, 1 << p.rng.randrange(20), 0, 0, 0)
        os.setxattr(path, "security.capability", value, follow_symlinks=False)


def swap(p, state):
    """A name that is a file, a directory with something in it, a link, a pipe, a device."""
    path = p.path()
    if os.path.lexists(path):
        remove(path)
    chance = p.rng.random()
    if chance < 0.3:
        with open_file(path, "wb") as file:
            file.write(p.bytes())
    elif chance < 0.6:
        os.mkdir(path)
        for n in range(p.rng.randrange(4)):
            with open_file(os.path.join(path, "f%d" % n), "wb") as file:
                file.write(p.bytes(100))
    elif chance < 0.8:
        os.symlink(p.rng.choice((p.path(), "nowhere", "/swap", "../..", "x" * 4000)), path)
    elif chance < 0.9:
        os.mkfifo(path, 0o620)
    else:
        os.mknod(path, p.rng.choice((stat.S_IFCHR, stat.S_IFBLK)) | 0o640, os.makedev(120, p.rng.randrange(10)))  # nobody's


ODD = [b"n" * 255, b"\xff\xfe" * 127, b"a\nb\n", b"\n", b"-rf", b" ", b"\x01\x02\x1b[31m", "\u00e9\u4e2d".encode(), b"...", b"*?[", b"caf\xe9", b"\\"]


def names(p, state):
    """Names of 255 bytes, of newlines, of no encoding."""
    root = os.fsencode(p.root)
    path = os.path.join(root, p.rng.choice(ODD))
    chance = p.rng.random()
    if chance < 0.2:
        os.makedirs(os.path.join(path, p.rng.choice(ODD)), exist_ok=True)
    elif chance < 0.4:
        os.rename(path, os.path.join(root, p.rng.choice(ODD)))
    elif chance < 0.5:
        remove(path)
    elif chance < 0.6:
        os.symlink(p.rng.choice(ODD), path)
    else:
        with open_file(os.path.join(path, p.rng.choice(ODD)) if os.path.isdir(path) else path, "wb") as file:
            file.write(p.bytes(300))


def owner(p, state):
    """Owners, modes with every bit, and times: of the past, of the future, before 1970, of directories and links."""
    path = p.any() if p.rng.random() < 0.5 else p.file()
    chance = p.rng.random()
    if chance < 0.1:
        os.makedirs(p.path("dir%d" % p.rng.randrange(3)), exist_ok=True)
    elif chance < 0.4:
        os.chown(path, p.rng.choice((-1, 0, 1000, 70000)), p.rng.choice((-1, 0, 1000)), follow_symlinks=False)
    elif chance < 0.7:
        os.chmod(path, p.rng.randrange(0o10000))
    else:
        os.utime(path, ns=(0, p.rng.choice((-1, 0, 1_000_000_001, 4_000_000_000_123_456_789, p.rng.randrange(10**18)))), follow_symlinks=False)


KINDS = {f.__name__: f for f in (rewrite, append, truncate, rename, deep, link, mapped, sparse, flags, project, xattr, swap, names, owner)}


class Worker:
    def __init__(self, kind, options):
        self.rng = random.Random("%s %s" % (options.seed, kind))
        self.act, self.pace = KINDS[kind], options.pace / 1000
        pool = ["f%d" % n for n in range(12)]
        self.places = [(Place("/" + kind, self.rng, pool), {})]
        if len(options.kinds) > 1 and kind != "mapped":  # who truncates what is mapped kills its writer
            self.places.append((Place("/all", self.rng, pool), {}))
        self.done = self.failed = 0

    def run(self, seconds):
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            for _ in range(self.rng.choice((1, 1, 1, 30))):
                place, state = self.places[0 if self.rng.random() < 0.7 else -1]
                self.done += 1
                try:
                    self.act(place, state)
                except (OSError, shutil.Error) as failed:
                    full = getattr(failed, "errno", 0) == errno.ENOSPC and os.statvfs("/").f_bavail < 100  # else: an attribute too many
                    if full or getattr(failed, "errno", 0) == errno.EIO:
                        raise
                    self.failed += 1
            time.sleep(self.rng.random() * 2 * self.pace)

    def store(self):
        for _, state in self.places:
            for view in state.get("maps", {}).values():
                store(view, self.rng)

    def serve(self, commands, answers):
        for line in commands:
            word, *rest = line.split()
            if word == "end":
                return
            self.run(float(rest[0])) if word == "run" else self.store()
            answers.write("%d %d\n" % (self.done, self.failed))
            answers.flush()


def start(kind, options, others):
    down, up = os.pipe(), os.pipe()
    pid = os.fork()
    if pid == 0:
        libc.prctl(1, signal.SIGKILL)
        os.chroot(options.root)
        os.chdir("/")
        for commands, answers, _ in others:
            commands.close(), answers.close()
        os.close(down[1]), os.close(up[0])
        code = 1
        try:
            Worker(kind, options).serve(os.fdopen(down[0]), os.fdopen(up[1], "w"))
            code = 0
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            if code:
                sys.excepthook(*sys.exc_info())
            os._exit(code)
    os.close(down[0]), os.close(up[1])
    return os.fdopen(down[1], "w"), os.fdopen(up[0]), pid


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("root", nargs="?")
    parser.add_argument("--kinds", type=lambda text: list(KINDS) if text == "all" else text.split(","), default=list(KINDS))
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--pace", type=float, default=10, help="ms between two changes, or bursts of them")
    parser.add_argument("--list", action="store_true")
    options = parser.parse_args()
    if options.list:
        return print("\n".join(KINDS))
    os.umask(0o022)
    workers = []
    for kind in options.kinds:
        workers.append(start(kind, options, workers))
    for line in sys.stdin:
        for commands, _, _ in workers:
            commands.write(line)
            commands.flush()
        if line.split()[0] == "end":
            break
        tallies = {kind: answers.readline().split() for kind, (_, answers, _) in zip(options.kinds, workers)}
        if not all(tallies.values()):
            return print("a writer has died", flush=True)
        print("quiet", " ".join("%s:%s/%s" % (kind, *counts) for kind, counts in tallies.items()), flush=True)
    for _, _, pid in workers:
        os.waitpid(pid, 0)


if __name__ == "__main__":
    sys.exit(main())
