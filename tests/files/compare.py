#!/usr/bin/env python3
"""Compares two trees, entry by entry, with nothing of midstream in it: what `midstream` says of itself is not evidence.

  compare.py A B            prints one line a difference; exits 1 if there is any
  compare.py --self-test D  plants each kind of difference between two trees below the directory D and must find each

Compared: type, mode, owner, group, modification time to the nanosecond (directories and links too), size and content
(SHA-256), extended attributes (ACLs and capabilities are among them), the chattr flags that any file system has, the project
id, the target of links, the numbers of devices, which names are one file, and whether holes are still holes. Not compared: what
nobody can set (ctime, inode numbers), access times, sockets, and the directory `.midstream` of a root.
"""
import errno
import fcntl
import hashlib
import os
import shutil
import stat
import struct
import sys
import tempfile

HIDDEN = b".midstream"
FSGETXATTR = 0x801C581F
FSSETXATTR = 0x401C5820
XFLAGS = {"immutable": 0x8, "append": 0x10, "sync": 0x20, "noatime": 0x40, "nodump": 0x80, "projinherit": 0x200}
MOVES = (b"user.", b"system.posix_acl_", b"security.capability")
SLACK = 64 << 10  # bytes of allocation that two file systems may differ in beside a quarter of the size


def attributes(path):
    """(xflags, project id), or (None, None) where the file system has no such thing."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError as failed:
        if failed.errno in (errno.ELOOP, errno.ENXIO):
            return None, None
        raise
    try:
        raw = fcntl.ioctl(fd, FSGETXATTR, bytes(28))
    except OSError as failed:
        if failed.errno in (errno.ENOTTY, errno.EOPNOTSUPP):
            return None, None
        raise
    finally:
        os.close(fd)
    flags, _, _, project = struct.unpack_from("=IIII", raw)
    return flags & sum(XFLAGS.values()), project


def set_attributes(path, flags, project=None):
    fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    try:
        raw = bytearray(fcntl.ioctl(fd, FSGETXATTR, bytes(28)))
        struct.pack_into("=I", raw, 0, flags)
        if project is not None:
            struct.pack_into("=I", raw, 12, project)
        fcntl.ioctl(fd, FSSETXATTR, bytes(raw))
    finally:
        os.close(fd)


def digest(path):
    total = hashlib.sha256()
    with open(path, "rb") as file:
        while piece := file.read(1 << 20):
            total.update(piece)
    return total.hexdigest()


def record(path):
    st = os.lstat(path)
    kind = stat.S_IFMT(st.st_mode)
    out = {"type": kind, "owner": st.st_uid, "group": st.st_gid, "mtime": st.st_mtime_ns}
    if kind != stat.S_IFLNK:
        out["mode"] = stat.S_IMODE(st.st_mode)
    if kind == stat.S_IFREG:
        out |= {"size": st.st_size, "content": digest(path), "allocated": st.st_blocks * 512}
    if kind == stat.S_IFLNK:
        out["target"] = os.readlink(path)
    if kind in (stat.S_IFCHR, stat.S_IFBLK):
        out["rdev"] = st.st_rdev
    if kind in (stat.S_IFREG, stat.S_IFDIR):
        names = [name for name in os.listxattr(path, follow_symlinks=False) if os.fsencode(name).startswith(MOVES)]
        out["xattrs"] = {name: os.getxattr(path, name, follow_symlinks=False) for name in names}
        out["flags"], out["project"] = attributes(path)
    return out, (st.st_dev, st.st_ino) if st.st_nlink > 1 and kind == stat.S_IFREG else None


def picture(root):
    """name -> record, and name -> the names that are the same file."""
    root = os.fsencode(root)
    records, inodes = {}, {}

    def add(path, name):
        if stat.S_ISSOCK(os.lstat(path).st_mode):
            return
        records[name], inode = record(path)
        if inode:
            inodes.setdefault(inode, set()).add(name)

    def walk(path, name):
        add(path, name)
        for entry in os.scandir(path):
            below = entry.name if name == b"." else name + b"/" + entry.name
            if below == HIDDEN:
                continue
            if entry.is_dir(follow_symlinks=False):
                walk(entry.path, below)
            else:
                add(entry.path, below)

    walk(root, b".")
    groups = {name: frozenset(names) for names in inodes.values() if len(names) > 1 for name in names}
    return records, groups


def differences(a, b):
    (left, left_groups), (right, right_groups) = picture(a), picture(b)
    for name in sorted(left.keys() | right.keys()):
        if name not in right or name not in left:
            yield name, "missing", "only in " + ("the first" if name in left else "the second"), ""
            continue
        ours, theirs = left[name], right[name]
        for key in ours.keys() | theirs.keys():
            if key == "allocated":
                size = max(ours.get("size", 0), theirs.get("size", 0))
                if abs(ours.get(key, 0) - theirs.get(key, 0)) > SLACK + size // 4:
                    yield name, "sparse", ours.get(key), theirs.get(key)
            elif ours.get(key) != theirs.get(key):
                yield name, key, ours.get(key), theirs.get(key)
        if left_groups.get(name) != right_groups.get(name):
            yield name, "links", sorted(left_groups.get(name, [])), sorted(right_groups.get(name, []))


# ---- the comparer's own test: one planted difference each

ACL = struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *row) for row in [
    (1, 6, 0xFFFFFFFF), (2, 4, 1234), (4, 4, 0xFFFFFFFF), (16, 6, 0xFFFFFFFF), (32, 4, 0xFFFFFFFF)])
CAPABILITY = struct.pack("<IIIII", 0x02000001, 1 << 10, 0, 0, 0)


def rewrite_keeping_times(path):
    st = os.lstat(path)
    with open(path, "r+b") as file:
        file.write(b"Q")
    os.utime(path, ns=(st.st_atime_ns, st.st_mtime_ns))


def replace_by(make):
    def act(path):
        shutil.rmtree(path) if os.path.isdir(path) and not os.path.islink(path) else os.unlink(path)
        make(path)
    return act


def flagged(name):
    return lambda path: set_attributes(path, XFLAGS[name])


def unlink_group(path):
    with open(path, "rb") as file:
        content = file.read()
    st = os.lstat(path)
    os.unlink(path)
    with open(path, "wb") as file:
        file.write(content)
    os.utime(path, ns=(st.st_atime_ns, st.st_mtime_ns))


def fill_holes(path):
    st = os.lstat(path)
    with open(path, "r+b") as file:
        content = file.read()
        file.seek(0)
        file.write(content)
    os.utime(path, ns=(st.st_atime_ns, st.st_mtime_ns))


PLANTED = [
    ("missing", "file", os.unlink), ("type", "file", replace_by(os.mkdir)), ("type", "dir", replace_by(lambda p: open(p, "w").close())),
    ("mode", "file", lambda p: os.chmod(p, 0o4711)), ("owner", "file", lambda p: os.chown(p, 5, -1)), ("group", "dir", lambda p: os.chown(p, -1, 6)),
    ("mtime", "file", lambda p: os.utime(p, ns=(1, 1_000_000_001))), ("mtime", "dir", lambda p: os.utime(p, ns=(1, 7))),
    ("mtime", "link", lambda p: os.utime(p, ns=(1, 7), follow_symlinks=False)), ("owner", "link", lambda p: os.chown(p, 5, 5, follow_symlinks=False)),
    ("content", "file", rewrite_keeping_times), ("size", "file", lambda p: os.truncate(p, 3)),
    ("target", "link", replace_by(lambda p: os.symlink("elsewhere", p))), ("rdev", "device", replace_by(lambda p: os.mknod(p, 0o20600, os.makedev(1, 5)))),
    ("type", "pipe", replace_by(lambda p: os.symlink("x", p))), ("xattrs", "file", lambda p: os.setxattr(p, "user.b", b"2")),
    ("xattrs", "dir", lambda p: os.setxattr(p, "user.b", b"2")), ("xattrs", "file", lambda p: os.setxattr(p, "system.posix_acl_access", ACL)),
    ("xattrs", "dir", lambda p: os.setxattr(p, "system.posix_acl_default", ACL)), ("xattrs", "file", lambda p: os.setxattr(p, "security.capability", CAPABILITY)),
    ("flags", "file", flagged("immutable")), ("flags", "dir", flagged("append")), ("flags", "file", flagged("nodump")), ("flags", "dir", flagged("noatime")),
    ("flags", "file", flagged("sync")), ("flags", "dir", flagged("projinherit")), ("project", "file", lambda p: set_attributes(p, 0, 4711)),
    ("links", "one", unlink_group), ("links", "file", replace_by(lambda p: os.link(os.path.join(os.path.dirname(p), "one"), p))),
    ("sparse", "holes", fill_holes), ("missing", "odd\n\udcff" + "n" * 100, os.unlink),
]


def plant_tree(root):
    os.mkdir(root)
    at = lambda name: os.path.join(root, name)
    for name in ("file", "one", "odd\n\udcff" + "n" * 100):
        with open(at(name), "wb") as file:
            file.write(b"some content")
    os.link(at("one"), at("two"))
    os.mkdir(at("dir"))
    os.symlink("somewhere", at("link"))
    os.mknod(at("device"), 0o20600, os.makedev(1, 3))
    os.mkfifo(at("pipe"))
    with open(at("holes"), "wb") as file:
        file.truncate(8 << 20)
    for name in os.listdir(root):
        os.utime(at(name), ns=(0, 1_700_000_000_123_456_789), follow_symlinks=False)
    os.utime(root, ns=(0, 1_700_000_000_123_456_789))


def self_test(where):
    failed, without = 0, 0
    for number, (kind, name, plant) in enumerate(PLANTED):
        base = tempfile.mkdtemp(dir=where)
        a, b = os.path.join(base, "a"), os.path.join(base, "b")
        plant_tree(a)
        plant_tree(b)
        at_first = list(differences(a, b))
        try:
            plant(os.path.join(b, name))
        except OSError as error:
            if error.errno not in (errno.EOPNOTSUPP, errno.ENOTTY, errno.EINVAL) or kind not in ("flags", "project"):
                raise
            without += 1
            continue
        found = {what for _, what, _, _ in differences(a, b)}
        if at_first or kind not in found:
            failed += 1
            print(f"planted {number}: {kind} of {name!r}: before {at_first}, found {found}")
        for path in (b, os.path.join(b, name)):
            if os.path.lexists(path) and not os.path.islink(path) and attributes(path)[0]:
                set_attributes(path, 0)
        shutil.rmtree(base)
    print(f"{len(PLANTED) - without} kinds of differences planted, {failed} not found, {without} that this file system does not have")
    return 1 if failed else 0


def main():
    if len(sys.argv) == 3 and sys.argv[1] == "--self-test":
        return self_test(sys.argv[2])
    count = 0
    for name, what, ours, theirs in differences(*sys.argv[1:3]):
        count += 1
        if count <= 40:
            print(f"{name[:200]!r}: {what}: {ours!r:.300} | {theirs!r:.300}")
    if count:
        print(f"{count} differences")
    return 1 if count else 0


if __name__ == "__main__":
    sys.exit(main())
