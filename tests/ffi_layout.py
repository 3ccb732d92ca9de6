"""Reads the structs of XLA's interface from headers: `python -m tests.ffi_layout OLD NEW`.

OLD and NEW are headers `c_api.h`, wheels, or directories with installed packages. TensorFlow and jaxlib ship the header
under `include/xla/ffi/api`. Prints what changed between the two: the fields of structs with their offsets, and the
numbers of enums. With one argument, prints all structs. Without one, compares the installed TensorFlow with the structs
that tfpyop uses.
"""

import ctypes
import importlib.util
import re
import sys
import zipfile
from pathlib import Path

from tfpyop._lowering.xla import layouts, structs

HEADER = "include/xla/ffi/api/c_api.h"
PACKAGES = ("tensorflow", "jaxlib")
SCALARS = {"size_t": 8, "int": 4, "int32_t": 4, "uint32_t": 4, "int64_t": 8}
START = "struct_size extension_start"
USED = {
    "XLA_FFI_Api_Version": (structs.Version, f"{START} major_version minor_version"),
    "XLA_FFI_Api": (
        structs.Api,
        f"{START} api_version internal_api XLA_FFI_Error_Create * XLA_FFI_Error_Destroy XLA_FFI_Handler_Register",
    ),
    "XLA_FFI_Metadata": (structs.Metadata, "struct_size api_version traits"),
    "XLA_FFI_Metadata_Extension": (structs.MetadataExtension, "extension_base metadata"),
    "XLA_FFI_ByteSpan": (structs.Span, "ptr len"),
    "XLA_FFI_Args": (structs.Buffers, f"{START} size types args"),
    "XLA_FFI_Rets": (structs.Buffers, f"{START} size types rets"),
    "XLA_FFI_Attrs": (structs.Attributes, f"{START} size types names attrs"),
    "XLA_FFI_CallFrame": (structs.CallFrame, f"{START} api ctx stage args rets attrs"),
    "XLA_FFI_Buffer": (structs.Buffer, f"{START} dtype data rank dims"),
    "XLA_FFI_Error_Create_Args": (structs.ErrorArguments, f"{START} message errc"),
}
"""The structs that tfpyop uses, with the names of their fields in the header. `*` is a field that was renamed."""
RENAMED = {"XLA_FFI_Extension_Base": "XLA_FFI_InternalExtension"}
"""Old names of structs, with the new ones."""


class Header:
    """The structs and enums of one header.

    Attributes:
      version: Major and minor version.
      structs: By name, a list of fields: name, type, offset and size.
      enums: By name, the numbers of the constants.
    """

    def __init__(self, text):
        text = re.sub(r"//[^\n]*|/\*.*?\*/", "", text, flags=re.DOTALL)
        number = r"#define XLA_FFI_API_{} (\d+)"
        self.version = tuple(int(re.search(number.format(part), text)[1]) for part in ("MAJOR", "MINOR"))
        bodies = re.findall(r"enum\s+\w*\s*\{([^{}]*)\}\s*(\w+);", text)
        self.enums = {
            name: [" ".join(line.split()) for line in body.split(",") if line.strip()] for body, name in bodies
        }
        self._bodies = dict(re.findall(r"struct (\w+) \{([^{}]*)\}", text))
        self._aliases = dict(re.findall(r"typedef (uint32_t|struct \w+) (\w+);", text))
        self._aliases = {alias: name for name, alias in self._aliases.items() if name in SCALARS}
        self.structs = {name: self._fields(name) for name in self._bodies}
        self._last_fields = dict(re.findall(r"XLA_FFI_DEFINE_STRUCT_TRAITS\((\w+),\s*(\w+)\)", text))

    def reported_size(self, name):
        """The size that a struct reports: the end of the field that the header calls the last one."""
        ends = {field: start + size for field, _, start, size in self.structs[name]}
        return ends[self._last_fields[name]]

    def sizes(self, kind):
        """The size and the alignment of a type."""
        kind = self._aliases.get(kind, kind)
        if "*" in kind:
            return 8, 8
        if kind in self._bodies:
            fields = self._fields(kind)
            alignment = max(self.sizes(field[1])[1] for field in fields)
            return _rounded(fields[-1][2] + fields[-1][3], alignment), alignment
        size = 4 if kind in self.enums else SCALARS[kind]
        return size, size

    def _fields(self, name):
        fields, end = [], 0
        for declaration in filter(None, map(str.strip, self._bodies[name].split(";"))):
            pointer = re.fullmatch(r"_XLA_FFI_API_STRUCT_FIELD\((\w+)\)|void \(\*(\w+)\)\(.*\)", declaration)
            if pointer:
                kind, field = "*", pointer[1] or pointer[2]
            else:
                kind, field = re.fullmatch(r"(.*?)\s*(\w+)", declaration, re.DOTALL).groups()
                kind = re.sub(r"\b(const|struct)\b\s*", "", kind).strip()
            size, alignment = self.sizes(kind)
            start = _rounded(end, alignment)
            fields.append((field, kind, start, size))
            end = start + size
        return fields


def _rounded(size, alignment):
    return -(-size // alignment) * alignment


def read(source):
    """The header in a file, a wheel or a directory of packages."""
    path = Path(source)
    if path.is_dir():
        found = [path / package / HEADER for package in PACKAGES if (path / package / HEADER).exists()]
        if not found:
            raise FileNotFoundError(f"{path}: neither {' nor '.join(PACKAGES)} has {HEADER}")
        path = found[0]
    if path.suffix != ".whl":
        return Header(path.read_text())
    with zipfile.ZipFile(path) as wheel:
        (name,) = [name for name in wheel.namelist() if re.fullmatch(rf"({'|'.join(PACKAGES)})/{HEADER}", name)]
        return Header(wheel.read(name).decode())


def installed(package="tensorflow"):
    """The header of an installed package."""
    spec = importlib.util.find_spec(package)
    return Header((Path(spec.origin).parent / HEADER).read_text())


def lines(header):
    """Structs and enums, a line for each field and constant."""
    found = {}
    for name, fields in header.structs.items():
        found[name] = [f"{start:4} {field}: {kind}" for field, kind, start, _ in fields]
        found[name].append(f"{header.sizes(name)[0]:4} bytes")
    return {**found, **header.enums}


def changes(old, new):
    """What changed between two headers, in lines."""
    before, after = lines(old), lines(new)
    for old_name, new_name in RENAMED.items():
        if old_name in before and new_name in after:
            before = {
                name.replace(old_name, new_name): [line.replace(old_name, new_name) for line in part]
                for name, part in before.items()
            }
    for name in dict.fromkeys([*before, *after]):
        own, others = before.get(name, []), after.get(name, [])
        if own != others:
            yield name
            yield from (f"  - {line}" for line in own if line not in others)
            yield from (f"  + {line}" for line in others if line not in own)


def differences(header):
    """Where the structs that tfpyop uses differ from a header, in lines."""
    layout = layouts.LAYOUTS.get(header.version)
    if layout is None:
        yield "the version {}.{} is not in the table of layouts".format(*header.version)
        return
    size = header.reported_size("XLA_FFI_Api")
    if size not in layout.sizes:
        yield f"XLA_FFI_Api: {size} bytes, but {layout.sizes} in the table"
    stages = tuple(field[0] for field in header.structs["XLA_FFI_Handler_Bundle"])
    if stages != layout.stages:
        yield f"XLA_FFI_Handler_Bundle: {stages}, but {layout.stages} in the table"
    extension = next(name for pair in RENAMED.items() for name in pair[::-1] if name in header.structs)
    registration = layouts.registration(layout.stages)
    used = {
        **USED,
        extension: (structs.Extension, "struct_size type next"),
        "XLA_FFI_Handler_Register_Args": (registration, f"{START} name platform bundle traits"),
    }
    for name, (kind, names) in used.items():
        descriptors = [getattr(kind, field[0]) for field in kind._fields_]
        own = [(field, found.offset, found.size) for field, found in zip(names.split(), descriptors, strict=True)]
        given = [(field, start, size) for field, _, start, size in header.structs[name][: len(own)]]
        if any(ours != theirs and ours != ("*", *theirs[1:]) for ours, theirs in zip(own, given, strict=True)):
            yield f"{name}: {given}, but tfpyop has {own}"
    for name, kind in (("XLA_FFI_Args", structs.Buffers), ("XLA_FFI_Attrs", structs.Attributes)):
        if header.sizes(name)[0] != ctypes.sizeof(kind):  # it is a field of the call frame
            yield f"{name}: {header.sizes(name)[0]} bytes, but tfpyop has {ctypes.sizeof(kind)}"


def main(arguments):
    """Print the layout, or the changes between two layouts; the status is 1 if tfpyop does not know the layout."""
    headers = list(map(read, arguments)) or [installed()]
    print("XLA FFI", " and ".join("{}.{}".format(*header.version) for header in headers))
    if len(headers) == 2:
        print(*changes(*headers), sep="\n")
    elif arguments:
        print(*(line for name, part in lines(headers[0]).items() for line in (name, *part)), sep="\n")
    problems = list(differences(headers[-1]))
    print(*(problems or ["tfpyop has the same layout."]), sep="\n")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
