import gc
import importlib
import json
import re
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.texts import exactly
from tfpyop import _registered
from tfpyop._lowering.autodiff.graph_gradient_names import GraphGradientNames
from tfpyop._registered import OpsView
from tfpyop._registry.registry import Registry
from tfpyop._registry.token import Token
from tfpyop._spec.source_location import Site
from tfpyop.errors import RegistrationError

NAMESPACE, SPEC, AGAIN = object(), object(), object()
FIRST = (NAMESPACE, SPEC)
RELOADED = (NAMESPACE, AGAIN)
IMPORTED_ANEW = (AGAIN, AGAIN)
SITE = Site("acme/ops.py", 3, FIRST)
IN_NOTEBOOK = Site("<stdin>", 1, FIRST, is_interactive=True)
LOCAL_TOKEN = r"tfpyop:acme:f#[0-9a-f]{8}-\d+"


class FakeDefinition:
    """What the registry needs of an op."""

    is_local = False
    module = "acme"

    def __init__(self, site=SITE, vjp=None):
        self.site = site
        self.op = f"the op of {site}"
        self.vjp = vjp

    def rule_op(self, suffix):
        return self.vjp if suffix == "vjp" else None

    def specialize_from_payload(self, payload):
        return f"made from {payload!r}"


class FakeConcreteOp:
    """What the registry needs of a concrete op."""

    is_batched = False

    def __init__(self, owner, payload="", name="acme:f"):
        self.definition, self.payload, self.name = owner, payload, name


class Thing:
    """An owner: something to hold weakly."""


@pytest.fixture
def registry(monkeypatch):
    monkeypatch.setattr(_registered, "REGISTRY", Registry())
    return _registered.REGISTRY


SITES = [
    pytest.param(SITE, SITE, False, id="same line"),
    pytest.param(SITE, Site("acme/ops.py", 3, RELOADED), True, id="same line, reloaded"),
    pytest.param(SITE, Site("acme/ops.py", 3, IMPORTED_ANEW), True, id="same line, imported anew"),
    pytest.param(SITE, Site("acme/ops.py", 9, FIRST), False, id="other line"),
    pytest.param(SITE, Site("acme/ops.py", 9, RELOADED), True, id="other line, reloaded"),
    pytest.param(SITE, Site("acme/more.py", 3, FIRST), False, id="other file"),
    pytest.param(SITE, Site("acme/more.py", 3, IMPORTED_ANEW), False, id="other file, other module"),
    pytest.param(SITE, IN_NOTEBOOK, False, id="a module's, in a notebook"),
    pytest.param(IN_NOTEBOOK, Site("<stdin>", 1, FIRST, is_interactive=True), True, id="notebook"),
    pytest.param(IN_NOTEBOOK, Site("<cell 2>", 9, FIRST, is_interactive=True), True, id="notebook, other cell"),
    pytest.param(IN_NOTEBOOK, Site("<stdin>", 1, RELOADED), False, id="a notebook's, in a module"),
]


@pytest.mark.parametrize(("old", "new", "replaces"), SITES)
def test_a_definition_replaces_its_older_version_and_nothing_else(registry, old, new, replaces):
    registry.register("acme:f", first := FakeDefinition(old))
    second = FakeDefinition(new)
    taken = pytest.raises(RegistrationError, match=r"^another op already has the name 'acme:f'\.")
    with nullcontext() if replaces else taken:
        registry.register("acme:f", second)
    assert new.replaces(old) is replaces
    assert registry.find("acme:f") is (second if replaces else first)


def test_a_conflict_shows_both_places(registry):
    registry.register("acme:f", FakeDefinition())
    message = (
        "another op already has the name 'acme:f'.\n  Expected: one definition for each name\n"
        "  Got:      one at acme/ops.py:3 and one at <stdin>:12\n"
        "  Rename one of the functions, or pass a different name= for each op. Omit name= for ops "
        "that a function creates in every call."
    )
    with pytest.raises(RegistrationError, match=exactly(message)):
        registry.register("acme:f", FakeDefinition(Site("<stdin>", 12, FIRST)))


def test_a_site_is_shown_from_the_working_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    outside = tmp_path.parent / "ops.py"
    assert str(Site(str(tmp_path / "acme" / "ops.py"), 3, FIRST)) == str(Path("acme/ops.py:3"))
    assert str(Site(str(outside), 3, FIRST)) == f"{outside}:3"


@pytest.fixture
def module(tmp_path, monkeypatch):
    """A module that can be edited and imported again."""
    path = tmp_path / "edited.py"
    lines = [
        "import sys",
        "from tfpyop._spec.source_location import Site",
        "def f(): ...",
        "site = Site.of(f, sys._getframe())",
    ]
    path.write_text("\n".join(lines))
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    yield importlib.import_module("edited"), path, lines
    del sys.modules["edited"]


def test_a_reload_replaces_definitions_that_have_moved(module):
    edited, path, lines = module
    before = edited.site
    path.write_text("\n".join(["# edited", "", *lines]))
    importlib.invalidate_caches()
    after = importlib.reload(edited).site
    assert (before.line, after.line) == (3, 5)
    assert after.replaces(before)
    assert not after.replaces(after)


def test_an_import_anew_replaces_definitions(module):
    edited, _, _ = module
    del sys.modules["edited"]
    assert importlib.import_module("edited").site.replaces(edited.site)


def test_a_module_is_executed_once_however_its_functions_are_made():
    source = """
for _ in range(2):
    made = {}
    exec("def f(): ...", made)  # as sympy.lambdify makes functions, in namespaces of their own
    sites.append(Site.of(made["f"], sys._getframe()))
"""
    namespace = {"__name__": "acme", "Site": Site, "sys": sys, "sites": []}
    exec(compile(source, "acme/ops.py", "exec"), namespace)
    first, second = namespace["sites"]
    assert (second.file, second.line) == ("acme/ops.py", 5)
    assert not second.replaces(first)


def test_the_site_of_a_function_made_here_is_its_first_line():
    def function(): ...

    site = Site.of(function, sys._getframe())
    assert (site.file, site.line) == (__file__, function.__code__.co_firstlineno)
    here = [globals(), __spec__]
    assert [any(part is one for one in here) for part in site.executions] == [True] * 4


@pytest.mark.parametrize("function", [np.hypot, FakeDefinition()])
def test_the_site_of_what_is_no_function_of_python_is_the_line_of_the_call(function):
    site = Site.of(function, sys._getframe())
    assert (site.file, site.line) == (__file__, sys._getframe().f_lineno - 1)


def test_the_site_of_a_function_made_elsewhere_is_the_line_of_the_call_at_the_top_of_a_module():
    namespace = {"__name__": "acme", "Site": Site, "sys": sys, "function": json.dumps}
    exec(compile("\n\nsite = Site.of(function, sys._getframe())", "acme/ops.py", "exec"), namespace)
    assert (namespace["site"].file, namespace["site"].line) == ("acme/ops.py", 3)
    inside = Site.of(json.dumps, sys._getframe())  # as in a decorator of somebody else's
    assert (inside.file, inside.line) == (json.dumps.__code__.co_filename, json.dumps.__code__.co_firstlineno)


@pytest.mark.parametrize(
    ("names", "expected"),
    [({}, True), ({"__file__": "script.py"}, False), ({"__name__": "acme.ops"}, False)],
)
def test_the_main_module_without_a_file_is_interactive(names, expected):
    namespace = {"Site": Site, "sys": sys, "__name__": "__main__", **names}
    exec("site = Site.of(len, sys._getframe())", namespace)
    assert namespace["site"].is_interactive is expected


def test_the_registry_holds_the_newest_entry_of_a_name(registry):
    first, second = FakeDefinition(), FakeDefinition(Site("acme/ops.py", 3, RELOADED))
    registry.register("acme:f", first)
    assert registry.holds("acme:f", first)
    registry.register("acme:f", second)
    assert [registry.holds("acme:f", entry) for entry in (first, second)] == [False, True]
    assert not registry.holds("acme:g", second)


def test_the_op_of_a_rule_is_found_by_the_name_of_its_op(registry):
    second_order = FakeDefinition()
    rule = FakeDefinition(vjp=second_order)
    registry.register("acme:f", FakeDefinition(vjp=rule))
    assert registry.find("acme:f/vjp") is rule
    assert registry.find("acme:f/vjp/vjp") is second_order
    assert registry.holds("acme:f/vjp", rule)
    assert not registry.holds("acme:f/jvp", rule)


@pytest.mark.parametrize("name", ["acme:f/jvp", "acme:f/vjp/jvp", "acme:f/other", "acme:f/", "acme:g/vjp", "/vjp"])
def test_a_rule_that_is_not_attached_is_not_found(registry, name):
    registry.register("acme:f", FakeDefinition(vjp=FakeDefinition()))
    with pytest.raises(RegistrationError, match=r"^no op named '.*' is registered\."):
        registry.find(name)


def test_the_op_of_a_rule_is_not_listed(registry):
    registry.register("acme:f", FakeDefinition(vjp=FakeDefinition()))
    view = OpsView()
    assert list(view) == list(registry.listed()) == ["acme:f"]
    assert "acme:f/vjp" not in view  # what is in a mapping is what it lists


@pytest.mark.parametrize(
    ("name", "known", "hint"),
    [
        ("acme:f", [], "Known: none."),
        ("acme:slove", ["acme:solve", "zebra"], "Did you mean 'acme:solve'?"),
        ("zebra", ["acme:solve", "acme:det"], "Known: 'acme:det', 'acme:solve'."),
    ],
)
def test_an_unknown_name_is_an_error_with_the_nearest_names(registry, name, known, hint):
    for other in known:
        registry.register(other, FakeDefinition())
    remedy = f"{hint} An op is registered when its module is imported."
    with pytest.raises(RegistrationError, match=exactly(f"no op named {name!r} is registered.\n  {remedy}")):
        registry.find(name)


def test_the_view_is_a_read_only_mapping_in_the_order_of_definition(registry):
    again = Site("acme/ops.py", 3, RELOADED)
    for name, site in [("b", SITE), ("a", SITE), ("b", again)]:
        registry.register(name, FakeDefinition(site))
    view = OpsView()
    assert dict(view) == {name: registry.find(name).op for name in ("b", "a")}
    assert list(view) == list(registry.listed()) == ["b", "a"]
    assert (len(view), "a" in view, "c" in view, view.get("c")) == (2, True, False, None)
    with pytest.raises(KeyError, match=r"^'c'$"):
        view["c"]
    with pytest.raises(TypeError, match="does not support item assignment"):
        view["c"] = FakeDefinition()


def test_a_unique_name_is_given_once_even_to_many_threads(registry):
    with ThreadPoolExecutor(8) as pool:
        names = list(pool.map(registry.unique, ["acme:f"] * 4000))
    assert len(set(names)) == 4000
    assert all(re.fullmatch(r"acme:f#[0-9a-f]{8}-\d+", name) for name in names)


def test_a_unique_name_is_of_one_process_alone():
    assert Registry().unique("acme:f") != Registry().unique("acme:f")


@pytest.fixture
def entry(registry):
    registry.register("acme:f", entry := FakeDefinition(vjp=FakeDefinition()))
    return entry


def reload(registry):
    site = Site("acme/ops.py", 3, RELOADED)
    registry.register("acme:f", entry := FakeDefinition(site))
    return entry


@pytest.mark.parametrize("payload", ["", '{"static":{"n":3}}'])
def test_the_token_of_a_listed_op_is_its_name_and_payload(registry, entry, payload):
    for owner, name in [(entry, "acme:f"), (entry.vjp, "acme:f/vjp")]:
        concrete_op = FakeConcreteOp(owner, payload, name)
        assert registry.token_of(concrete_op) == f"tfpyop:{name}{payload}"
        assert registry.find_op(f"tfpyop:{name}{payload}") is concrete_op


@pytest.mark.parametrize(("is_listed", "payload"), [(False, ""), (False, None), (True, None)])
def test_the_token_of_what_has_no_lasting_name_is_its_own(registry, entry, is_listed, payload):
    owner = entry if is_listed else FakeDefinition()
    first, second = FakeConcreteOp(owner, payload), FakeConcreteOp(owner, payload)
    tokens = [registry.token_of(concrete_op) for concrete_op in (first, second, first, second)]
    assert tokens[:2] == tokens[2:]
    assert tokens[0] != tokens[1]
    assert all(re.fullmatch(LOCAL_TOKEN, token) for token in tokens)
    assert [registry.find_op(token) for token in tokens[:2]] == [first, second]


def test_the_first_host_op_of_a_token_counts(registry, entry):
    first, second = FakeConcreteOp(entry), FakeConcreteOp(entry)
    assert registry.token_of(first) == registry.token_of(second) == "tfpyop:acme:f"
    assert registry.find_op("tfpyop:acme:f") is first


def test_threads_that_ask_for_a_token_at_once_get_the_same(registry):
    barrier = threading.Barrier(8)
    concrete_op = FakeConcreteOp(FakeDefinition())

    def token(_):
        barrier.wait()
        return registry.token_of(concrete_op)

    with ThreadPoolExecutor(8) as pool:
        assert len(set(pool.map(token, range(8)))) == 1
    assert len(registry._concrete_ops) == 1


@pytest.mark.parametrize("payload", ["", None])
def test_a_host_op_lives_as_long_as_somebody_holds_it(registry, entry, payload):
    concrete_op = FakeConcreteOp(FakeDefinition(), payload)
    token = registry.token_of(concrete_op)
    assert len(registry._concrete_ops) == 1
    del concrete_op
    gc.collect()
    assert len(registry._concrete_ops) == 0
    assert registry.find_op(token) is None


@pytest.mark.parametrize(
    ("token", "payload"),
    [("tfpyop:acme:f", ""), ('tfpyop:acme:f{"static":{}}', '{"static":{}}'), ("tfpyop:acme:f/vjp{}", "{}")],
)
def test_a_host_op_that_is_gone_is_made_anew_by_its_entry(registry, entry, token, payload):
    assert registry.find_op(token) == f"made from {payload!r}"


@pytest.mark.parametrize("token", ["pyfunc_7", "tfpyop:acme:g", "tfpyop:acme:f#0123abcd-1", "tfpyop:acme:f/jvp"])
def test_a_token_of_no_known_op_has_no_host_op(registry, entry, token):
    assert registry.find_op(token) is None


def test_a_new_version_of_an_op_drops_the_lasting_tokens_of_the_old(registry, entry):
    host_ops = [FakeConcreteOp(entry), FakeConcreteOp(entry, "{}"), FakeConcreteOp(entry.vjp, "", "acme:f/vjp")]
    tokens = [registry.token_of(concrete_op) for concrete_op in host_ops]
    new = reload(registry)
    new.vjp = FakeDefinition()
    assert [registry.find_op(token) for token in tokens] == ["made from ''", "made from '{}'", "made from ''"]


def test_a_new_version_of_an_op_drops_the_tokens_of_rules_of_its_rules(registry, entry):
    entry.vjp.vjp = FakeDefinition()
    old = FakeConcreteOp(entry.vjp.vjp, "", "acme:f/vjp/vjp")
    token = registry.token_of(old)
    new = reload(registry)
    new.vjp = FakeDefinition(vjp=FakeDefinition())
    assert registry.find_op(token) == "made from ''"


def test_the_name_of_a_rule_of_a_rule_of_any_depth_is_found_in_time(registry, entry):
    assert registry.find_op("tfpyop:acme:f" + "/vjp" * 100_000) is None
    assert Token.parse("tfpyop:acme:f" + "/vjp" * 100_000).op == "acme:f"


@pytest.mark.parametrize("defined", ["acme:f", "acme:g"])
def test_what_has_no_lasting_name_is_found_whatever_is_defined(registry, entry, defined):
    names = ["acme:f", "acme:g", "acme:g.<locals>.inner", "acme:gg"]
    host_ops = [FakeConcreteOp(FakeDefinition(), name=name) for name in names] + [FakeConcreteOp(entry, None)]
    tokens = [registry.token_of(concrete_op) for concrete_op in host_ops]
    site = Site("acme/ops.py", 3, RELOADED)
    registry.register(defined, FakeDefinition(site))
    assert [registry.find_op(token) for token in tokens] == host_ops


def test_a_definition_leaves_ops_alone_whose_names_begin_like_it(registry):
    registry.register("acme:ff", entry := FakeDefinition())
    concrete_op = FakeConcreteOp(entry, name="acme:ff")
    token = registry.token_of(concrete_op)
    registry.register("acme:f", FakeDefinition())
    assert registry.find_op(token) is concrete_op


@pytest.mark.parametrize("payload", ["", "{}", '{"static":{"batch":1}}'])
def test_the_new_version_of_an_op_takes_the_place_of_the_old(registry, entry, payload):
    concrete_op = FakeConcreteOp(entry, payload)
    assert registry.current(concrete_op) is concrete_op
    registry.token_of(concrete_op)
    reload(registry)
    assert registry.current(concrete_op) == f"made from {payload!r}"


@pytest.mark.parametrize("way", ["not to be written down", "local", "local token", "over rows", "unknown"])
def test_what_has_no_new_version_stays_in_its_place(registry, entry, way):
    owner = FakeDefinition()
    owner.is_local = way == "local"
    concrete_op = FakeConcreteOp(owner, None if way == "not to be written down" else "")
    if way == "local token":
        registry.token_of(concrete_op)
    concrete_op.is_batched = way == "over rows"
    if way == "unknown":
        concrete_op.name = "acme:g"
    reload(registry)
    assert registry.current(concrete_op) is concrete_op


json_objects = st.dictionaries(st.text(), st.none() | st.integers() | st.text(), min_size=1).map(json.dumps)


@settings(deadline=None)
@given(
    name=st.text(min_size=1).filter(lambda name: not {"{", "@"} & set(name)),
    payload=st.just("") | json_objects,
    module=st.from_regex(r"\w+(\.\w+)*", fullmatch=True),
)
def test_a_token_is_taken_apart_again(name, payload, module):
    assert Token.parse(str(Token(name, payload, module))) == Token(name, payload, module)


@pytest.mark.parametrize(
    ("text", "name", "op", "module", "is_local"),
    [
        ("tfpyop:acme.ops:f", "acme.ops:f", "acme.ops:f", "acme.ops", False),
        ('tfpyop:f/vjp@acme.ops{"a":"@"}', "f/vjp", "f", "acme.ops", False),
        ("tfpyop:acme:f/vjp/jvp/vjp", "acme:f/vjp/jvp/vjp", "acme:f", "acme", False),
        ("tfpyop:acme:f/vjps/vjp", "acme:f/vjps/vjp", "acme:f/vjps", "acme", False),
        ("tfpyop:acme:f.<locals>.g#01-2", "acme:f.<locals>.g#01-2", "acme:f.<locals>.g#01-2", "acme", True),
    ],
)
def test_a_token_contains_op_and_module(text, name, op, module, is_local):
    token = Token.parse(text)
    assert (token.name, token.op, token.module, token.is_local, str(token)) == (name, op, module, is_local, text)


def test_owned_names_go_with_their_owner():
    removed = []
    names = GraphGradientNames(removed.append)
    owner, other = Thing(), Thing()
    owner.itself = owner  # graphs are in cycles too
    for name, its_owner in [("a", owner), ("b", other), ("c", owner)]:
        names.add(name, its_owner)
    gc.collect()
    assert removed == []
    del owner, its_owner
    gc.collect()
    assert removed == ["a", "c"]
