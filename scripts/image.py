#!/usr/bin/env python3
"""Writes a container image from scratch, as a docker-archive tar: files of this machine, with the libraries that they need.

    image.py OUT NAME [--root FOLDER] [--file SOURCE=PATH]… [--link PATH=TARGET]… [--text PATH=CONTENT]… [--user UID:GID] [--run COMMAND…]

`ctr images import OUT`, `docker load -i OUT`, `podman load -i OUT` and `skopeo copy docker-archive:OUT …` take it.
"""

import argparse
import hashlib
import io
import json
import os
import platform
import re
import subprocess
import tarfile


def libraries(path):
    """What the dynamic linker would load for a program, the linker itself among it; nothing for a static one or for data."""
    with open(path, "rb") as program:
        if program.read(4) != b"\x7fELF":
            return []
    listed = subprocess.run(["ldd", path], capture_output=True, text=True, check=False).stdout
    missing = re.findall(r"^\s*(\S+) => not found", listed, re.MULTILINE)
    if missing:
        raise SystemExit(f"image.py: {path} needs {', '.join(missing)}, which this machine does not have")
    return re.findall(r"(/\S+) \(0x", listed)


class Layer:
    """One tar layer. The same content gives the same bytes: no times, no names of this machine's users."""

    def __init__(self):
        self.buffer = io.BytesIO()
        self.tar = tarfile.open(fileobj=self.buffer, mode="w")
        self.seen = set()

    def _add(self, path, kind, mode, content=b"", target=""):
        path = os.path.normpath(path.strip("/"))
        if path in self.seen:
            return
        self.seen.add(path)
        parent = os.path.dirname(path)
        if parent:
            self.folder(parent)
        entry = tarfile.TarInfo(path)
        entry.type, entry.mode, entry.size, entry.linkname = kind, mode, len(content), target
        self.tar.addfile(entry, io.BytesIO(content))

    def folder(self, path, mode=0o755):
        self._add(path, tarfile.DIRTYPE, mode)

    def text(self, path, content):
        self._add(path, tarfile.REGTYPE, 0o644, content.encode())

    def link(self, path, target):
        self._add(path, tarfile.SYMTYPE, 0o777, target=target)

    def file(self, source, path):
        with open(source, "rb") as content:
            self._add(path, tarfile.REGTYPE, 0o755 if os.access(source, os.X_OK) else 0o644, content.read())
        for library in libraries(source):
            self.file(library, library)

    def root(self, source):
        """A folder as the image's root, as it is: with its modes and links, without what programs in it need."""
        for at, folders, names in os.walk(source):
            folders.sort()
            for name in sorted(folders + names):
                path = os.path.join(at, name)
                inside, mode = os.path.relpath(path, source), os.lstat(path).st_mode & 0o7777
                if os.path.islink(path):
                    self.link(inside, os.readlink(path))
                elif os.path.isdir(path):
                    self.folder(inside, mode)
                else:
                    with open(path, "rb") as content:
                        self._add(inside, tarfile.REGTYPE, mode, content.read())

    def bytes(self):
        self.tar.close()
        return self.buffer.getvalue()


def write(out, name, layer, config):
    digest = hashlib.sha256(layer).hexdigest()
    machine = {"x86_64": "amd64", "aarch64": "arm64"}.get(platform.machine(), platform.machine())
    document = json.dumps({
        "architecture": machine,
        "os": "linux",
        "config": config,
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{digest}"]},
    }).encode()
    identity = hashlib.sha256(document).hexdigest()
    manifest = [{"Config": f"{identity}.json", "RepoTags": [name], "Layers": [f"{digest}/layer.tar"]}]
    with tarfile.open(out, "w") as archive:
        for path, content in (
            (f"{digest}/layer.tar", layer),
            (f"{identity}.json", document),
            ("manifest.json", json.dumps(manifest).encode()),
        ):
            entry = tarfile.TarInfo(path)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))


def pair(argument):
    left, equals, right = argument.partition("=")
    if not equals:
        raise argparse.ArgumentTypeError(f"{argument!r} has no '='")
    return left, right


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out")
    parser.add_argument("name")
    parser.add_argument("--root", metavar="FOLDER")
    parser.add_argument("--file", type=pair, action="append", default=[], metavar="SOURCE=PATH")
    parser.add_argument("--link", type=pair, action="append", default=[], metavar="PATH=TARGET")
    parser.add_argument("--text", type=pair, action="append", default=[], metavar="PATH=CONTENT")
    parser.add_argument("--user", default="")
    parser.add_argument("--run", nargs=argparse.REMAINDER, default=[], metavar="COMMAND")
    wanted = parser.parse_args()

    layer = Layer()
    if wanted.root:
        layer.root(wanted.root)
    layer.folder("tmp", 0o1777)
    for source, path in wanted.file:
        layer.file(source, path)
    for path, target in wanted.link:
        layer.link(path, target)
    for path, content in wanted.text:
        layer.text(path, content)
    config = {"Entrypoint": wanted.run, "User": wanted.user, "Env": ["PATH=/bin"]}
    write(wanted.out, wanted.name, layer.bytes(), config)


if __name__ == "__main__":
    main()
