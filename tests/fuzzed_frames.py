"""Fuzz the handler for compiled calls: every call must be right or refused.

It runs in a process of its own, because a mistake here reads or writes memory that does not exist. The memory of every
buffer ends where a page begins that nobody may touch, so that one byte too many ends the process.
"""

import ctypes
import math
import mmap
import sys
from dataclasses import dataclass, replace

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from tfpyop import differentiable_op
from tfpyop._lowering.xla import call_site, ffi
from tfpyop._lowering.xla.call_descriptor import ELEMENT_TYPES, CallDescriptor
from tfpyop._lowering.xla.structs import Attributes, Buffer, Buffers, CallFrame, Span
from tfpyop._registry.op_def import REGISTRY
from tfpyop._spec.outputs import ArraySpec
from tfpyop.errors import TfpyopError

TEXT = 4  # the type of an attribute
ORDER = (4, ())  # int32[]
double = differentiable_op(lambda x: x + x, signature="()->()", name="fuzz:double")
written = differentiable_op(lambda x, *, out=None: np.add(x, x, out=out), signature="(n)->(n)", name="fuzz:written")
pair = differentiable_op(lambda x, y: (y + y, x.copy()), signature="(n),(m)->(m),(n)", name="fuzz:pair")
logged = differentiable_op(lambda x: x + x, signature="(n)->(n)", name="fuzz:logged", stateful=True)
shaped = differentiable_op(lambda x: x[:1], shape=lambda shape: (1,), name="fuzz:shaped")
nothing = differentiable_op(lambda: np.float32(3), signature="->()", name="fuzz:nothing", dtype=np.float32)
NAMES = ("double", "written", "pair", "logged", "shaped", "nothing")


class ErrorMessage(ctypes.Structure):
    """XLA_FFI_Error_GetMessage_Args, of which XLA_FFI_Error_Destroy_Args has the first three fields."""

    _fields_ = (
        ("struct_size", ctypes.c_size_t),
        ("extension_start", ctypes.c_void_p),
        ("error", ctypes.c_void_p),
        ("message", ctypes.c_char_p),
    )


class GuardedMemory:
    """Pages that each end at one that must not be touched."""

    def __init__(self, count):
        self._map = mmap.mmap(-1, 2 * count * mmap.PAGESIZE)
        self._start = ctypes.addressof(ctypes.c_char.from_buffer(self._map))
        self._next, self._count = 0, count
        protect = ctypes.CDLL(None, use_errno=True).mprotect
        protect.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
        for page in range(count):
            assert protect(self._start + (2 * page + 1) * mmap.PAGESIZE, mmap.PAGESIZE, 0) == 0

    @property
    def forbidden(self):
        """The address of a page that must not be touched."""
        return self._start + mmap.PAGESIZE

    def allocate(self, n_bytes):
        """Return the address of so many bytes, behind which there are none; pages are used in turn."""
        assert n_bytes <= mmap.PAGESIZE
        page = self._next = (self._next + 1) % self._count
        return self._start + (2 * page + 1) * mmap.PAGESIZE - n_bytes


MEMORY = GuardedMemory(64)


@dataclass(frozen=True)
class Frame:
    """What a call is given: the text, and the element type and shape of each buffer."""

    site: bytes
    arguments: tuple
    results: tuple
    n_attributes: int = 1
    attribute_type: int = TEXT


DTYPES = {
    number: np.dtype(name) for name, (_, number) in ELEMENT_TYPES.items() if not name.startswith(("bf", "float8"))
}
"""By XLA's number of it."""


def item_size(number):
    return DTYPES[number].itemsize if number in DTYPES else 1


class Call:
    """A frame in memory."""

    def __init__(self, frame):
        self.frame = frame
        self._kept = []
        self.arguments = [self._buffer(*buffer) for buffer in frame.arguments]
        self.results = [self._buffer(*buffer) for buffer in frame.results]
        text = self._keep(ctypes.create_string_buffer(frame.site))
        span = self._keep(Span(ctypes.addressof(text), len(frame.site)))
        others = self._keep(Span(MEMORY.forbidden, 8))  # a number, say, which as text would be in memory of nobody
        content = span if frame.attribute_type == TEXT else others
        items = self._keep((ctypes.c_void_p * 1)(ctypes.addressof(content)))
        types = self._keep((ctypes.c_int * 1)(frame.attribute_type))
        is_there = frame.n_attributes > 0
        attributes = Attributes(
            ctypes.sizeof(Attributes),
            None,
            frame.n_attributes,
            ctypes.addressof(types) if is_there else None,
            None,
            ctypes.cast(items if is_there else None, ctypes.POINTER(ctypes.c_void_p)),
        )
        self.c_frame = CallFrame(
            ctypes.sizeof(CallFrame),
            None,
            None,
            None,
            3,
            self._list(self.arguments),
            self._list(self.results),
            attributes,
        )

    def _keep(self, value):
        self._kept.append(value)
        return value

    def _buffer(self, number, shape):
        n_bytes = math.prod(shape) * item_size(number)
        address = MEMORY.allocate(n_bytes)
        ctypes.memset(address, 1, n_bytes)
        sizes = self._keep((ctypes.c_int64 * len(shape))(*shape))
        data = address if n_bytes else None
        sizes_address = ctypes.addressof(sizes) if shape else None
        return Buffer(ctypes.sizeof(Buffer), None, number, data, len(shape), sizes_address)

    def _list(self, buffers):
        pointers = self._keep((ctypes.c_void_p * len(buffers))(*map(ctypes.addressof, buffers)))
        items = ctypes.cast(pointers if buffers else None, ctypes.POINTER(ctypes.c_void_p))
        return Buffers(ctypes.sizeof(Buffers), None, len(buffers), None, items)

    def arrays(self, buffers, types):
        """Copies of what is on buffers."""
        return [
            np.frombuffer(
                ctypes.string_at(buffer.data or 1, math.prod(shape) * item_size(number)), DTYPES[number]
            ).reshape(shape)
            for buffer, (number, shape) in zip(buffers, types, strict=True)
        ]


def message_of(api, error):
    """Read an error, and give it back."""
    arguments = ErrorMessage(ctypes.sizeof(ErrorMessage), None, error, None)
    function = ctypes.CFUNCTYPE(None, ctypes.c_void_p)
    function(api.error_get_message)(ctypes.addressof(arguments))
    text = arguments.message.decode()
    function(api.error_destroy)(ctypes.addressof(arguments))
    return text


TYPES = st.tuples(
    st.sampled_from(sorted(DTYPES)),
    st.lists(st.integers(0, 4), max_size=3).map(tuple),
)


def declared(name, arguments, results, opened, is_ordered):
    """The text of a call with such buffers, in which some sizes are left open."""

    def type_of(number, shape):
        sizes = tuple(None if (axis, size) in opened else size for axis, size in enumerate(shape))
        return ArraySpec(DTYPES[number], sizes)

    def types(buffers):
        return [type_of(*buffer) for buffer in buffers]

    return CallDescriptor(f"tfpyop:fuzz:{name}", types(arguments), types(results), is_ordered).text.encode()


@st.composite
def right_frames(draw):
    """Frames of calls as XLA would make them."""
    name = draw(st.sampled_from(NAMES))
    number, shape = draw(TYPES)
    if name in ("written", "logged", "shaped") and not shape:
        shape = (2,)
    if name == "nothing":
        arguments, results = (), ((11, ()),)
    elif name == "pair":
        n, m = draw(st.integers(0, 4)), draw(st.integers(0, 4))
        arguments, results = ((number, (n,)), (number, (m,))), ((number, (m,)), (number, (n,)))
    elif name == "shaped":
        shape = (max(shape[0], 1),)
        arguments, results = ((number, shape),), ((number, (1,)),)
    else:
        arguments, results = ((number, shape),), ((number, shape),)
    is_ordered = name == "logged"
    opened = draw(st.sets(st.tuples(st.integers(0, 2), st.integers(0, 4)), max_size=3)) if name != "shaped" else ()
    site = declared(name, arguments, results, opened, is_ordered)
    order = (ORDER,) * is_ordered
    return Frame(site, arguments + order, results + order)


@st.composite
def damaged_texts(draw, site):
    """A text with a few bytes, numbers or types other than they were."""
    kind = draw(st.sampled_from(["bytes", "number", "types", "token", "noise"]))
    if kind == "bytes":
        start = draw(st.integers(0, len(site)))
        end = draw(st.integers(start, min(start + 3, len(site))))
        return site[:start] + draw(st.binary(max_size=3)) + site[end:]
    if kind == "number":
        digits = [place for place, byte in enumerate(site) if chr(byte).isdigit()]
        place = draw(st.sampled_from(digits or [0]))
        new = draw(st.sampled_from(["", "0", "7", "-1", "65536", str(2**31), str(2**63), "9" * 5000, "?", "1_0", "٣"]))
        return site[:place] + new.encode() + site[place + 1 :]
    token, _, types = site.rpartition(b"|")
    if kind == "types":
        inputs, _, outputs = types.partition(b"->")
        many = draw(st.sampled_from([0, 2, 3, 40]))
        side = draw(st.booleans())
        inputs, outputs = (
            b",".join([part] * many) if chosen else part for part, chosen in ((inputs, side), (outputs, not side))
        )
        return token + b"|" + inputs + b"->" + outputs
    if kind == "token":
        name = draw(st.sampled_from(NAMES)).encode()
        payload = draw(st.sampled_from([b"", b"{", b'{"static":{"n":3}}', b'{"batch":[[1]]}', b"{" * 5000, b"/vjp"]))
        return b"tfpyop:fuzz:" + name + payload + b"|" + types
    return draw(st.binary(max_size=40))


@st.composite
def damaged_frames(draw):
    """Frames whose text or buffers are not those of one call."""
    frame = draw(right_frames())
    for kind in draw(st.lists(st.sampled_from(["site", "buffer", "count", "attribute"]), min_size=1, max_size=2)):
        if kind == "site":
            frame = replace(frame, site=draw(damaged_texts(frame.site)))
        elif kind == "attribute":
            n_attributes = draw(st.integers(0, 2))
            frame = replace(frame, n_attributes=n_attributes, attribute_type=draw(st.sampled_from([1, 2, 3, 4])))
        else:
            side = draw(st.sampled_from(["arguments", "results"]))
            buffers = list(getattr(frame, side))
            other = draw(TYPES | st.tuples(st.integers(0, 40), st.just((1,))))
            place = draw(st.integers(0, len(buffers)))
            if kind == "count":
                buffers[place:place] = [other] * draw(st.integers(0, 3))
                del buffers[draw(st.integers(0, 3)) :]
            else:
                buffers[place : place + 1] = [other]
            frame = replace(frame, **{side: tuple(buffers)})
    return frame


API = ffi.load_api()
RAISED = []
COUNTS = {"right": 0, "refused": 0}


def run(*arguments):
    """Run a call, and note what it raises."""
    try:
        call_site.run(*arguments)
    except BaseException as error:
        RAISED.append(error)
        raise


HANDLE = ffi.handler(API, run)


def check(frame, *, may_be_refused):
    """Make a call; it must be right, or say in our words why it is refused."""
    call = Call(frame)
    RAISED.clear()
    error = HANDLE(ctypes.addressof(call.c_frame))
    if error:
        text = message_of(API, error)
        assert may_be_refused, (frame, text)
        # what is raised before the call runs is about attributes
        is_clear = isinstance(RAISED[0], TfpyopError) if RAISED else text.startswith("cannot parse the call data")
        assert is_clear or "the function raised" in text, (frame, text)
        COUNTS["refused"] += 1
        return
    COUNTS["right"] += 1
    parsed = CallDescriptor.parse(frame.site)
    arguments = call.arrays(call.arguments, frame.arguments)[: len(parsed.inputs)]
    expected = REGISTRY.require_op(parsed.token).host(arguments)
    for got, wanted in zip(call.arrays(call.results, frame.results), expected, strict=False):
        assert (got.dtype, got.shape) == (wanted.dtype, wanted.shape), frame
        assert got.tobytes() == wanted.tobytes(), frame


@settings(max_examples=250, deadline=None, derandomize=True, database=None)
@given(st.lists(right_frames() | damaged_frames().map(lambda frame: (frame,)), min_size=1, max_size=5))
def fuzz(frames):
    """Right and damaged frames in turn, so that some find the call that others have made."""
    for frame in frames:
        if isinstance(frame, tuple):
            check(frame[0], may_be_refused=True)
        else:
            check(frame, may_be_refused=False)


@settings(max_examples=150, deadline=None, derandomize=True, database=None)
@given(right_frames(), st.lists(right_frames(), min_size=1, max_size=4))
def swap(frame, others):
    """The text of one call with the buffers of others, after calls of its own."""
    for _ in range(3):
        check(frame, may_be_refused=False)
    for other in others:
        check(replace(other, site=frame.site), may_be_refused=True)
    check(frame, may_be_refused=False)


def main():
    """Run everything, and print how many calls there were."""
    fuzz()
    swap()
    sys.stdout.write(f"{COUNTS['right']} right, {COUNTS['refused']} refused\n")
