"""What hostile headers cost: memory is bounded whatever they ask for."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from pathlib import Path

import pytest
from c_library import Library
from test_falsified_fields import FIELDS

MOST_BYTES = 200 << 20


def make_header(text: str, tensors: str = "") -> bytes:
    """A file's start with this metadata and these entries, its length right."""
    header = ('{"__metadata__":{"memrec_convert":"' + text.replace('"', '\\"') + '"}' + tensors + "}").encode()
    header += b" " * (-len(header) % 8)
    return len(header).to_bytes(8, "little") + header


def make_text(**fields: str) -> str:
    """Metadata with these fields as JSON, the others empty, and a digest that fits."""
    plain = dict.fromkeys(FIELDS, "{}") | {"format": "1", "seed": "1", "dense": '"fp32"'} | fields
    plain.pop("self")
    blank = "{" + ",".join(f'"{name}":{plain[name]}' for name in sorted(plain)) + ',"self":"' + "0" * 32 + '"}'
    return blank.replace("0" * 32, hashlib.blake2b(blank.encode(), digest_size=16).hexdigest())


def make_many_tables(count: int) -> bytes:
    """A sound file of very many tables of one number each."""
    digest = hashlib.blake2b(b"torch.float32 [1, 1]\n" + bytes(4), digest_size=16).hexdigest()
    names = [f"{number:06x}" for number in range(count)]
    modules = ",".join(
        f'"{name}":{{"codec":"fp32","dim":1,"form":"kept","name":"","oov":"zero","rows":1}}' for name in names
    )
    digests = ",".join(f'"{name}.rows":"{digest}"' for name in names)
    tensors = "".join(
        f',"{name}.rows":{{"dtype":"F32","shape":[1,1],"data_offsets":[{4 * number},{4 * number + 4}]}}'
        for number, name in enumerate(names)
    )
    return make_header(make_text(modules=f"{{{modules}}}", digests=f"{{{digests}}}"), tensors) + bytes(4 * count)


def make_hostile() -> dict[str, bytes]:
    """Files with headers near the limit of ten megabytes that ask for as much work and memory as they can."""
    size = 9_900_000

    def entries(nbytes: int, value: str) -> str:
        return "{" + ",".join(f'"{number:06x}":{value}' for number in range(size // nbytes)) + "}"

    dimensions = ',"a":{"dtype":"U8","shape":[' + "1," * (size // 2) + '1],"data_offsets":[0,1]}'
    empty = entries(60, '{"dtype":"U8","shape":[0],"data_offsets":[0,0]}')
    return {
        "arrays": make_header(make_text(plan='{"a":[' + "[]," * (size // 3) + "[]]}")),
        "deep": make_header('{"a":' + "[" * (size // 2)),
        "floats": make_header(make_text(plan='{"a":[' + ",".join(["0.30000000000000004"] * (size // 20)) + "]}")),
        "dimensions": make_header(make_text(digests=f'{{"a":"{"1" * 32}"}}'), dimensions) + b"x",
        "same": make_header(make_text(modules=entries(32, '{"same_as":"a"}'))),
        "aliases": make_header(make_text(aliases=entries(18, '"a"'))),
        "tensors": make_header(make_text(), "," + empty[1:-1]),
        "tables": make_many_tables(37_000),
    }


SCRIPT = """
import sys
sys.path[:0] = sys.argv[3:]
from c_library import Library, Refused
from pathlib import Path
def tell(what):
    return int(next(line.split()[1] for line in open("/proc/self/status") if line.startswith(what)))
library = Library(sys.argv[1])
before = tell("VmRSS")
try:
    with library.open(Path(sys.argv[2])) as artifact:
        artifact.verify()
        print(len(artifact.tables()), "tables")
except Refused as refused:
    print(refused.status, refused)
print(tell("VmHWM") - before)
"""


@pytest.mark.skipif(not Path("/proc/self/status").is_file(), reason="the system does not tell a process's memory")
def test_hostile_headers_cost_little(library: Library, tmp_path: Path) -> None:
    """No header of ten megabytes takes 200 MiB: refused, or read where it is sound after all."""
    said: dict[str, str] = {}
    for name, content in make_hostile().items():
        path = tmp_path / name
        path.write_bytes(content)
        command = [sys.executable, "-c", SCRIPT, library.native._name, str(path), *sys.path]  # with the tests' helpers
        ran = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
        said[name], kibibytes = ran.stdout.strip().rsplit("\n", 1)
        assert int(kibibytes) * 1024 < MOST_BYTES, (name, said[name], kibibytes)
    assert said.pop("tables") == "37000 tables"
    assert said.pop("arrays") == said.pop("floats") == "0 tables"
    assert all(text.startswith("DAMAGED") for text in said.values()), said
